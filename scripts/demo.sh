#!/usr/bin/env bash
# Quantizes the bundled model to every format and shows what that cost. Usage: scripts/demo.sh [path of visq] [output folder]
set -euo pipefail
visq=$(realpath "${1:-build/visq}")
cd "$(dirname "$0")/.."
out=${2:-out/demo}
formats=fp8,int8_sq,int4_awq,w4a8_awq,nvfp4

echo "Quantizing demo/model to $formats, one calibration for all:"
echo
"$visq" quantize demo/model --format "$formats" --calib demo/calibration.jsonl --out "$out" --force
echo
echo "What it cost, on 300 held-out questions:"
echo
"$visq" eval "$out"/fp8 "$out"/int8_sq "$out"/int4_awq "$out"/w4a8_awq "$out"/nvfp4 \
  --against demo/model --data demo/questions.jsonl --show 2
echo
echo "The checkpoints are in $out; look at one with: $visq inspect $out/nvfp4"
