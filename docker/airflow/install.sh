#!/usr/bin/env bash
# install.sh PYTHON EXTRAS [WHEEL]: the provider beside Airflow, with the tested versions, from this tree or from a wheel.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
"$1" -m pip install -q --disable-pip-version-check -c "$root/constraints.txt" "${3:-$root}[$2]"
"$1" -m pip check
"$1" -P -m gca_core.cli.main version
