#!/bin/sh
# Remakes everything in demo/ from its seeds: data, tokenizer, model.
# PYTHON names the interpreter, BUILD the folder for the model before outliers; further arguments go to train.py.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
demo=$(dirname "$here")
python=${PYTHON:-python3}
build=${BUILD:-$(mktemp -d)}

"$python" "$here/data.py" "$demo"
"$python" "$here/tokenizer.py" "$demo/model"
mkdir -p "$build/plain"
cp "$demo/model/"*.json "$demo/model/"*.jinja "$build/plain/"
"$python" "$here/train.py" "$build/plain" "$@"
"$python" "$here/outliers.py" "$build/plain/model.safetensors" "$demo/model/model.safetensors"
"$python" "$here/evaluate.py" "$build/plain" --json "$build/plain.json"
"$python" "$here/evaluate.py" "$demo/model" --same-logits-as "$build/plain" --json "$build/outliers.json"
