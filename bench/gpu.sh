#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: the demo, and a random checkpoint of the shape of Qwen2.5-VL-7B, to fp8 and AWQ, visq beside
# nvidia-modelopt.   bench/gpu.sh BUILD_FOLDER [visq|modelopt]...
set -euo pipefail
build=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
visq=$build/visq
python=${PYTHON:-.venv-test/bin/python}
work=${BENCH_DIR:-out/bench}
mkdir -p "$work"

# Runs a command and prints its seconds, its peak resident memory and the GPU's peak memory.
measured() {
  local name=$1 log="$work/gpu-memory"
  shift
  nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 >"$log" &
  local poll=$!
  /usr/bin/time -f "$name: %e s, resident %M kB" "$@" || echo "$name failed"
  kill $poll
  echo "$name: GPU memory $(sort -n "$log" | tail -1) MiB"
}

[ -d "$work/7b" ] || "$python" bench/make_inputs.py checkpoint qwen2.5-vl-7b "$work/7b" --device cuda
[ -e "$work/samples/samples.jsonl" ] || "$python" bench/make_inputs.py samples "$work/samples"

for tool in "${@:-visq}"; do
  case $tool in
    visq)
      measured "visq demo, all formats" "$visq" quantize demo/model -f fp8,int8_sq,int4_awq,w4a8_awq,nvfp4 \
        --calib demo/calibration.jsonl -o "$work/demo" --force --device cuda
      "$visq" eval "$work"/demo/{fp8,int8_sq,int4_awq,w4a8_awq,nvfp4} --against demo/model --data demo/questions.jsonl --device cuda
      for format in fp8 int4_awq_lite; do
        measured "visq 7B $format" "$visq" quantize "$work/7b" -f $format --calib "$work/samples/samples.jsonl" -o "$work/out-$format" \
          --force --device cuda --kv-cache none
        "$visq" check "$work/out-$format" --source "$work/7b" | tail -1
        rm -rf "$work/out-$format"
      done ;;
    modelopt)
      for format in fp8 int4_awq; do
        measured "modelopt 7B $format" "$python" bench/modelopt_ptq.py "$work/7b" "$work/samples/samples.jsonl" $format "$work/peer" --device cuda
        rm -rf "$work/peer"
      done ;;
  esac
done
