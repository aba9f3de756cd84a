#!/usr/bin/env bash
# Installs what building needs: Debian packages, and a torch Python package for libtorch. Does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(ninja-build ccache pkg-config libcli11-dev nlohmann-json3-dev libfmt-dev libpcre2-dev libutf8proc-dev
  libjpeg62-turbo-dev libpng-dev libwebp-dev libhwy-dev libyaml-cpp-dev libgtest-dev libbenchmark-dev clang-format-14 python3-venv)

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }
# Ubuntu has libjpeg-turbo under another name.
provided() { installed "$1" || { [ "$1" = libjpeg62-turbo-dev ] && installed libjpeg-turbo8-dev; }; }

missing=()
for package in "${packages[@]}"; do provided "$package" || missing+=("$package"); done
if [ ${#missing[@]} -gt 0 ]; then
  if ! apt-cache show libjpeg62-turbo-dev >/dev/null 2>&1 && apt-cache show libjpeg-turbo8-dev >/dev/null 2>&1; then
    missing=("${missing[@]/libjpeg62-turbo-dev/libjpeg-turbo8-dev}")
  fi
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  if { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; } && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq "${missing[@]}" >/dev/null 2>&1 ||
      { "${as_root[@]}" apt-get update -qq >/dev/null &&
        DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq "${missing[@]}" >/dev/null; }
  else
    echo "error: these packages are missing and cannot be installed from here; install them and try again:" >&2
    echo "  apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi

[ -z "${TORCH_DIR:-}" ] || exit 0
find_torch='import importlib.util, sys; s = importlib.util.find_spec("torch"); sys.exit(0 if s and s.submodule_search_locations else 1)'
for python in "${VIRTUAL_ENV:-/nonexistent}/bin/python" python3 .venv/bin/python; do
  if command -v "$python" >/dev/null && "$python" -c "$find_torch" 2>/dev/null; then exit 0; fi
done
echo "installing torch into .venv"
python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
