#!/usr/bin/env bash
# Runs the parity and end-to-end tests. They need Python packages that the product does not; those live in .venv-test, which
# borrows torch from where the build found it, and the engines' loading code in .venv-engines.
set -euo pipefail
build=$(realpath "${1:-build}")
cd "$(dirname "$0")/.."

torch_dir=$(sed -n 's/^TORCH_DIR:PATH=//p' "$build/CMakeCache.txt")
stamp=.venv-test/installed-$(sha256sum tests/requirements.txt | cut -c1-12)
if [ ! -e "$stamp" ]; then
  echo "installing the test packages into .venv-test"
  rm -rf .venv-test
  python=python3
  # The environment that holds torch decides the Python version.
  [ -x "$(dirname "$torch_dir")/../../../bin/python" ] && python="$(dirname "$torch_dir")/../../../bin/python"
  "$python" -m venv .venv-test
  site=$(.venv-test/bin/python -c 'import site; print(site.getsitepackages()[0])')
  dirname "$torch_dir" >"$site/torch-of-the-build.pth"
  pip=(.venv-test/bin/pip install --quiet --disable-pip-version-check)
  "${pip[@]}" -r tests/requirements.txt
  "${pip[@]}" --no-deps torchvision==0.29.2  # its transforms are Python over ATen; its own operators are not used
  touch "$stamp"
fi
scripts/engine_environment.sh
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}  # where cores are shared, spinning threads cost more than they gain
# One worker a core and one thread a worker: toy models do not fill two cores. More than eight workers would only fight for memory.
workers=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
VISQ_BUILD="$build" .venv-test/bin/python -m pytest -q -W ignore -n $((workers < 8 ? workers : 8)) --dist worksteal \
  tests/parity tests/e2e "${@:2}"
