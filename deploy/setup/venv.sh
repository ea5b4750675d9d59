#!/bin/sh
# Creates the virtual environment and installs the locked dependencies and Cadenza itself, editable.
# Usage: venv.sh PYTHON VENV
set -eu
python=$1
venv=$2

# Debian and Ubuntu ship venv apart from Python.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    sh "$(dirname "$0")/system-packages.sh"
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Cadenza needs Python 3.11 or newer; $python is $("$python" --version 2>&1)." >&2
    exit 1
}

uv=$(sed -n 's/^uv==\([0-9.]*\).*/uv==\1/p' requirements.lock)
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$uv"
# A mirror that pip is configured for holds for uv too.
index=$("$venv/bin/python" -m pip config get global.index-url 2>/dev/null || true)
if [ -n "$index" ]; then
    UV_DEFAULT_INDEX=$index
    export UV_DEFAULT_INDEX
fi
"$venv/bin/uv" pip sync --quiet --python "$venv/bin/python" --require-hashes requirements.lock
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --editable .
