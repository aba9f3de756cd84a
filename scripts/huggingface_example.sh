#!/usr/bin/env bash
# From a model's name to a checkpoint that engines serve, in one command: finds or fetches the model, quantizes it, checks
# the output by the engines' rules and says how to serve it. Takes the options of the script of the same name in
# NVIDIA's Model Optimizer, as far as they mean something here.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")

usage() {
  cat <<USAGE
usage: $0 --model DIR|ORG/NAME --quant fp8|nvfp4|int8_sq|int4_awq|w4a8_awq [options]

  --model           directory, or name on the Hugging Face hub (found in the cache, or fetched with the program hf)
  --quant           any format of visq formats, or a recipe (.yaml)
  --kv_cache_quant  format of the KV cache (visq kv-caches, or none)
  --calib           samples with images (.jsonl), or how many to take of them
  --calib_dataset   samples with images (.jsonl), where --calib is a number
  --export_fmt      hf (default), or tensorrt_llm: checkpoints by ranks for trtllm-build, split by --tp and --pp
  --for             engines that must load the output: vllm,sglang,tensorrt-llm
  --tp, --pp        GPUs that share each layer, and that the layers are shared out to; asked for on a terminal
  --tasks           build (quantize and check), eval (compare with the original); default: build
  --eval_data       samples with answers for eval; default: those of --calib
  --output          where saved_models_… is made; default: the working directory
USAGE
}
fail() {
  echo "error: $*" >&2
  exit 2
}

model= quant= kv_cache= calib= dataset= tp= pp= export_fmt=hf tasks=build eval_data= output=$PWD engines=
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
  esac
  case $1 in
    --trust_remote_code | --use_seq_device_map | --low_memory_mode | --no-verbose)
      echo "$1: not needed, ignored" >&2
      shift && continue ;;
  esac
  [ $# -ge 2 ] || fail "$1: needs a value (--help)"
  case $1 in
    --model) model=$2 ;;
    --quant) quant=$2 ;;
    --kv_cache_quant) kv_cache=$2 ;;
    --calib) calib=$2 ;;
    --calib_dataset) dataset=$2 ;;
    --export_fmt) export_fmt=$2 ;;
    --for) engines=$2 ;;
    --tp) tp=$2 ;;
    --pp) pp=$2 ;;
    --tasks) tasks=$2 ;;
    --eval_data) eval_data=$2 ;;
    --output) output=$2 ;;
    --type | --calib_batch_size | --calib_tp) echo "$1: not needed, ignored" >&2 ;;
    *) fail "$1: no such option (--help)" ;;
  esac
  shift 2
done
[ -n "$model" ] || { usage >&2 && fail "--model is missing"; }
[ -n "$quant" ] || { usage >&2 && fail "--quant is missing"; }
for task in ${tasks//,/ }; do
  case $task in
    build | quant | eval) ;;
    *) fail "--tasks $task: choose of build, eval; benchmarks of served models run against the engine's own API" ;;
  esac
done
case $export_fmt in
  hf | tensorrt_llm) ;;
  *) fail "--export_fmt $export_fmt: choose hf or tensorrt_llm" ;;
esac

ask() { # $1: the option, $2: its value so far; asks for it on a terminal alone
  local answer=$2
  if [ -z "$answer" ] && [ -t 0 ] && [ -t 2 ]; then read -rp "$1 (GPUs) [1]: " answer; fi
  answer=${answer:-1}
  [[ $answer =~ ^[1-9][0-9]{0,3}$ ]] || fail "$1 $answer: not a number of GPUs"
  echo "$answer"
}
tp=$(ask --tp "$tp")
pp=$(ask --pp "$pp")

visq=${VISQ:-$here/../build/visq}
[ -x "$visq" ] || visq=$(command -v visq) || fail "visq is not built: run 'make build', or set VISQ to the program"

find_model() { # prints the directory
  if [ -d "$model" ]; then echo "$model" && return; fi
  [[ $model =~ ^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$ ]] || fail "--model $model: neither a directory nor ORG/NAME"
  local cache=${HF_HUB_CACHE:-${HF_HOME:-$HOME/.cache/huggingface}/hub}/models--${model/\//--}
  local revision
  revision=$(cat "$cache/refs/main" 2>/dev/null || true)
  if [ -n "$revision" ] && [ -f "$cache/snapshots/$revision/config.json" ]; then
    echo "$cache/snapshots/$revision" && return
  fi
  command -v hf >/dev/null || fail "$model is not in $cache, and the program hf, which fetches it, is not installed"
  echo "fetching $model" >&2
  hf download "$model" --quiet
}
path=$(find_model)

data=$dataset samples=()
if [[ $calib =~ ^[0-9]+$ ]]; then samples=(--samples "$calib"); elif [ -n "$calib" ]; then data=$calib; fi

name=$(basename "$model" | sed 's/[^0-9a-zA-Z-]/_/g')
saved=$output/saved_models_${name}_$(basename "${quant%.yaml}")
options=(--format "$quant")
if [ "$export_fmt" = tensorrt_llm ]; then
  saved+=_tp${tp}_pp${pp}
  options+=(--layout tensorrt-llm --tp "$tp" --pp "$pp")
fi
[ -z "$data" ] || options+=(--calib "$data" "${samples[@]}")
[ -z "$kv_cache" ] || options+=(--kv-cache "$kv_cache")
[ -z "$engines" ] || options+=(--for "$engines")

if [[ ,$tasks, =~ ,(build|quant), ]]; then
  "$visq" quantize "$path" "${options[@]}" --out "$saved"
  "$visq" check "$saved" --source "$path" ${engines:+--for "$engines"}
fi
if [[ ,$tasks, =~ ,eval, ]]; then
  questions=${eval_data:-$data}
  [ -n "$questions" ] || fail "--tasks eval: give --eval_data, samples with answers (.jsonl)"
  if [ "$export_fmt" = hf ]; then
    "$visq" eval "$saved" --against "$path" --data "$questions"
  else
    "$visq" eval "$saved" --source "$path" --against "$path" --data "$questions"
  fi
fi
echo
if [ "$export_fmt" = hf ]; then
  "$visq" inspect "$saved" --tp "$tp" --pp "$pp" | sed -n '/^quantized: /p; /^vLLM: /p; /^SGLang: /p; /^TensorRT-LLM: /p'
else
  echo "trtllm-build --checkpoint_dir $saved --output_dir ${saved}_engine --workers $((tp * pp))"
fi
