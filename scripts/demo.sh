#!/usr/bin/env bash
# Quantizes the bundled model to every format and shows what that cost. Usage: scripts/demo.sh [path of visq] [output folder]
set -euo pipefail
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}  # where cores are shared, spinning threads cost more than they gain
visq=$(realpath "${1:-build/visq}")
cd "$(dirname "$0")/.."
out=${2:-out/demo}
formats=fp8,int8_sq,int4_awq,w4a8_awq,nvfp4

echo "Quantizing demo/model to $formats with one calibration, then asking 300 held-out questions …"
echo
mkdir -p "$out"
costs=$(mktemp)
trap 'rm -f "$costs"' EXIT
"$visq" quantize demo/model --format "$formats" --calib demo/calibration.jsonl --out "$out" --force --json >"$costs"
"$visq" eval "$out"/fp8 "$out"/int8_sq "$out"/int4_awq "$out"/w4a8_awq "$out"/nvfp4 \
  --against demo/model --data demo/questions.jsonl --costs "$costs" --show 2
echo
echo "The checkpoints are in $out. Look at one:      $visq inspect $out/nvfp4"
echo "Ask one about a picture:                       $visq generate $out/fp8 --image demo/images/q0001.png \"How many yellow objects are there?\""
