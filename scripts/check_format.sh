#!/usr/bin/env bash
# Checks (or with --fix, applies) .clang-format on our sources.
set -euo pipefail
cd "$(dirname "$0")/.."
clang_format=$(command -v clang-format-14 || command -v clang-format) || { echo "clang-format is missing: make setup" >&2; exit 1; }
mode=(--dry-run --Werror)
[ "${1:-}" = --fix ] && mode=(-i)
find visq tests bench \( -name '*.h' -o -name '*.cpp' \) -print0 | xargs -0 "$clang_format" "${mode[@]}"
