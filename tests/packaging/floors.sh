#!/usr/bin/env bash
# Run the unit tests with the lowest versions that pyproject.toml declares.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python3 -m venv "$venv"
"$venv/bin/pip" install -q uv
"$venv/bin/uv" pip install -q --python "$venv/bin/python" --resolution lowest-direct -e '.[test]'
"$venv/bin/python" -m pytest tests/unit || # one more try, alone, as in .ci/run
  "$venv/bin/python" -m pytest -n 0 --last-failed --last-failed-no-failures none tests/unit
