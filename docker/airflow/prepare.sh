#!/usr/bin/env bash
# prepare.sh: Airflow's tables, the tables of the atlas, and the bucket of a storage emulator; does no harm a second time.
set -euo pipefail
airflow db migrate
gca atlas init
if [ -n "${STORAGE_EMULATOR_HOST:-}" ]; then
    python - "$GCA_RESULTS_URI" <<'PY'
import sys
import fsspec

bucket = sys.argv[1].removeprefix("gs://").split("/")[0]
storage = fsspec.filesystem("gs")
if not storage.exists(bucket):
    storage.mkdir(bucket)
PY
fi
