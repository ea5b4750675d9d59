#!/bin/sh
# Compares Cadenza with the oracle: makes the oracle's environment, its references, and runs tests/parity.
# Usage: tests/parity/run.sh PYTHON, from the repository's root, after `make models`.
set -eu
python=$1
venv=.cache/parity-venv
output=.cache/parity

if ! cmp -s tests/parity/requirements.txt "$venv/installed.txt"; then
    echo "Making the oracle's environment in $venv"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tests/parity/requirements.txt
    cp tests/parity/requirements.txt "$venv/installed.txt"
fi
echo "Asking the oracle (minutes on two cores)"
"$venv/bin/python" -m tests.parity.oracle "$output"
"$venv/bin/python" -m tests.parity.families "$output"
.venv/bin/pytest tests/parity
