#!/usr/bin/env bash
# install.sh PYTHON: this package with arc-stack and without Airflow, into the environment of that interpreter.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
"$1" -m pip install -q --disable-pip-version-check -r "$here/requirements.txt"
# --no-deps: the package's own requirements name Airflow
"$1" -m pip install -q --disable-pip-version-check --no-deps "$here/../.."
"$1" -P -m gca_core.cli.main version
