#!/bin/sh
# Writes config.yml, the machine profile, where the package isn't installed; 'gca machine-profile' writes the same keys.
# usage: generate_config.sh [FILE]    ('-' prints it; an existing file is kept unless FORCE=1)
set -eu

target=${1:-config.yml}
if [ "$target" != - ] && [ -e "$target" ] && [ "${FORCE:-0}" != 1 ]; then
    echo "error: $target exists; edit it, name another file, or replace it with FORCE=1" >&2
    exit 2
fi

# text as a YAML string, nothing as null
text() { if [ -n "$1" ]; then printf "'%s'" "$(printf %s "$1" | sed "s/'/''/g")"; else printf null; fi; }
number() { if [ -n "$1" ]; then printf %s "$1"; else printf null; fi; }
kib_to_gb() { awk -v kib="$1" -v share="${2:-1}" 'BEGIN { if (kib != "") printf "%.1f", kib * share / 1048576 }'; }
cpuinfo() { sed -n "s/^$1[[:space:]]*: *//p" /proc/cpuinfo 2>/dev/null | head -n 1; }
meminfo() { sed -n "s/^$1: *\([0-9]*\) kB/\1/p" /proc/meminfo 2>/dev/null; }
python_says() { python3 -c "$1" 2>/dev/null || true; }
least() { printf '%s\n' "$@" | sort -n | head -n 1; }

os_name=$(. /etc/os-release 2>/dev/null && printf %s "${NAME:-}" || uname -s)
os_version=$(. /etc/os-release 2>/dev/null && printf %s "${VERSION_ID:-}" || uname -v)

logical=$(getconf _NPROCESSORS_ONLN)
physical=$(lscpu -p=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | grep -c . || true)
[ "${physical:-0}" -ge 1 ] || physical=$logical
# nproc would take the limits on threads for the number of cores
usable=$(least "$physical" "$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || echo "$logical")")
if [ "$usable" -gt 2 ]; then threads=$((usable - 1)); else threads=$usable; fi
limit() { printf %s "$1" | sed -n 's/^[[:space:]]*0*\([1-9][0-9]*\)[[:space:]]*\(,.*\)\{0,1\}$/\1/p'; }
# shellcheck disable=SC2046 # no limit is no argument
threads=$(least "$threads" $(limit "${OMP_NUM_THREADS:-}") $(limit "${OMP_THREAD_LIMIT:-}"))

total=$(meminfo MemTotal)
available=$(meminfo MemAvailable)
ram_limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || true)
case $ram_limit in
    '' | *[!0-9]*) ;;
    *) total=$(least "$total" $((ram_limit / 1024))); available=$(least "$available" $((ram_limit / 1024))) ;;
esac
disk=$(df -Pk . | awk 'NR == 2 { print $2, $4 }')

gpu=$(nvidia-smi --query-gpu=name,memory.total,compute_cap --format=csv,noheader,nounits 2>/dev/null | head -n 1 || true)
case $gpu in *,*,*) ;; *) gpu= ;; esac
field() { printf %s "$gpu" | cut -d, -f"$1" | sed 's/^ *//; s/ *$//'; }
vram=$(awk -v mib="$(field 2)" 'BEGIN { if (mib != "") printf "%.1f", mib / 1024 }')
torch_says=$(python_says 'import torch
found = torch.cuda.is_available()
count = torch.cuda.get_device_properties(0).multi_processor_count if found else ""
print(torch.__version__, torch.version.cuda or "", count, sep="|")')
torch=$(printf %s "$torch_says" | cut -d"|" -f1)
cuda=$(printf %s "$torch_says" | cut -d"|" -f2)
multiprocessors=$(printf %s "$torch_says" | cut -d"|" -f3)
[ -n "$torch" ] || cuda=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9.]*\).*/\1/p' | head -n 1)
usable_vram=$vram
[ -n "$cuda" ] || usable_vram=
batch_size=$(awk -v gb="$usable_vram" 'BEGIN { print (gb == "" || gb <= 4) ? 128 : (gb <= 8) ? 256 : 512 }')

profile() {
    cat <<PROFILE
# machine profile: what this machine has and what a training run may take of it. GB are 2**30 bytes, MHz for the CPU.
# the values below annotation_threads are yours to change; null means the default of the run.
os_name: $(text "$os_name")
os_version: $(text "$os_version")
kernel_version: $(text "$(uname -r)")
architecture: $(text "$(uname -m)")
cpu_model: $(text "$(cpuinfo 'model name')")
physical_cores: $physical
logical_cores: $logical
cpu_frequency: $(number "$(cpuinfo 'cpu MHz')")
total_ram_gb: $(number "$(kib_to_gb "$total")")
available_ram_gb: $(number "$(kib_to_gb "$available")")
total_storage_gb: $(number "$(kib_to_gb "${disk% *}")")
free_storage_gb: $(number "$(kib_to_gb "${disk#* }")")
gpu_model: $(text "$(field 1)")
gpu_vram_gb: $(number "$vram")
gpu_compute_capability: $(text "$(field 3)")
gpu_multiprocessors: $(number "$multiprocessors")
cuda_version: $(text "$cuda")
python_version: $(text "$(python_says 'import platform; print(platform.python_version())')")
pytorch_version: $(text "$torch")
annotation_threads: $threads
batch_size: $batch_size
learning_rate: 0.001
max_epochs: 200
max_ram_usage_gb: $(number "$(kib_to_gb "$available" 0.8)")
gpu_memory_fraction: 0.8
keep_intermediate_files: false
keep_temp_files: false
compression_type: gzip
PROFILE
}

if [ "$target" = - ]; then
    profile
else
    profile > "$target.partial"
    mv "$target.partial" "$target"
    echo "wrote $target"
fi
