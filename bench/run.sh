#!/usr/bin/env bash
# Benchmarks on a CPU, visq and its peers side by side on the same machine and the same files.
#   bench/run.sh [build folder]           about 20 minutes; needs the packages of tests/requirements.txt in .venv-test (make test)
set -euo pipefail
build=$(realpath "${1:-build}")
cd "$(dirname "$0")/.."
visq=$build/visq
python=${PYTHON:-.venv-test/bin/python}
work=${BENCH_DIR:-out/bench}
mkdir -p "$work"

echo "== packing, one thread: GB of bfloat16 input per second"
"$build/bench_pack" --benchmark_min_time=0.5 2>/dev/null

[ -d "$work/llava-0.5b" ] || "$python" bench/make_inputs.py checkpoint llava-0.5b "$work/llava-0.5b"
[ -e "$work/samples/samples.jsonl" ] || "$python" bench/make_inputs.py samples "$work/samples"

echo; echo "== weight-only rounding of a 1 GB checkpoint in the page cache, against cp of the same files"
cat "$work/llava-0.5b"/*.safetensors >/dev/null
for run in 1 2 3; do
  rm -rf "$work/copy" "$work/rounded"
  /usr/bin/time -f "cp    %e s" cp -r "$work/llava-0.5b" "$work/copy"
  /usr/bin/time -f "visq  %e s" "$visq" -q quantize "$work/llava-0.5b" -f w4a16 --kv-cache none -o "$work/rounded" >/dev/null
done
rm -rf "$work/copy" "$work/rounded"

echo; echo "== fp8 of the 0.5 B model, 16 samples: seconds and memory"
"$visq" quantize "$work/llava-0.5b" -f fp8 --calib "$work/samples/samples.jsonl" --samples 16 -o "$work/fp8" --force --json |
  "$python" -c 'import json,sys; r = json.load(sys.stdin); print("seconds", round(r["seconds"], 1), " anonymous memory", round(r["peak_anonymous_bytes"] / 1e9, 2), "GB")'

for model in demo/model "$work/llava-0.5b"; do
  samples=demo/calibration.jsonl; limit=128
  [ "$model" = demo/model ] || { samples=$work/samples/samples.jsonl; limit=8; }
  echo; echo "== AWQ of $model, $limit samples: visq (int4_awq_lite), then nvidia-modelopt (int4_awq)"
  rm -rf "$work/awq" "$work/peer"
  /usr/bin/time -f "visq             %e s, %M kB" "$visq" -q quantize "$model" -f int4_awq_lite --calib "$samples" --samples $limit --kv-cache none -o "$work/awq" >/dev/null
  "$python" bench/modelopt_ptq.py "$model" "$samples" int4_awq "$work/peer" --limit $limit 2>/dev/null | tail -1
done
