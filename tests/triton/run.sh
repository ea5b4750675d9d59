#!/bin/sh
# Runs Triton's own client against the server, in an environment of its own: it wants another protobuf.
# Usage: tests/triton/run.sh PYTHON, from the repository's root, after `make models`.
set -eu
python=$1
venv=.cache/triton-venv

if ! cmp -s tests/triton/requirements.txt "$venv/installed.txt"; then
    echo "Making the environment of Triton's client in $venv"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tests/triton/requirements.txt
    cp tests/triton/requirements.txt "$venv/installed.txt"
fi
.venv/bin/pytest tests/triton
