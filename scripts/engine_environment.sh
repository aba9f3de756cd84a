#!/usr/bin/env bash
# Installs into .venv-engines what the tests load our files with, or have export others: the engines' loading code, without kernels and
# without what serving needs, gptqmodel and llm-compressor.
# torch, transformers and compressed-tensors are those of .venv-test. Does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=tests/requirements-engines.txt
stamp=.venv-engines/installed-$(cat "$requirements" tests/requirements.txt | sha256sum | cut -c1-12)
[ ! -e "$stamp" ] || exit 0
echo "installing the engines' loading code and other tools into .venv-engines"
rm -rf .venv-engines
[ -x .venv-test/bin/python ] || { echo "error: .venv-test is missing; scripts/python_tests.sh makes it" >&2; exit 1; }
.venv-test/bin/python -m venv .venv-engines
# Both folders by name: Python does not follow the .pth files of a folder that a .pth file names.
where='import os, site, sys, torch
print(site.getsitepackages()[0], os.path.dirname(torch.__path__[0]), sep="\n")'
borrowed=$(.venv-test/bin/python -c "$where")
echo "$borrowed" >"$(.venv-engines/bin/python -c 'import site; print(site.getsitepackages()[0])')/borrowed.pth"

# Without dependencies: theirs are GPU builds of torch and several GB more.
pip=(.venv-engines/bin/python -m pip install --quiet --disable-pip-version-check --no-deps)
rest=$(mktemp)
trap 'rm -f "$rest"' EXIT
grep -v '^vllm==\|^gptqmodel==' "$requirements" >"$rest"
"${pip[@]}" --upgrade -r "$rest"
BUILD_CUDA_EXT=0 "${pip[@]}" --no-build-isolation --no-binary gptqmodel "$(sed -n 's/^\(gptqmodel==[^ ]*\).*/\1/p' "$requirements")"
# The version is set because vLLM names a build without kernels otherwise than its archive, which pip takes for an error.
vllm=$(sed -n 's/^vllm==\([^ ]*\).*/\1/p' "$requirements")
VLLM_VERSION_OVERRIDE=$vllm VLLM_TARGET_DEVICE=empty "${pip[@]}" --no-build-isolation --no-binary vllm "vllm==$vllm"
touch "$stamp"
