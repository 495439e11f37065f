#!/usr/bin/env bash
# Resolve constraints.txt anew from pyproject.toml, for every Python and platform at once. Needs uv.
# Versions that stand in the file are kept; `scripts/pin.sh --upgrade-package NAME` moves one, `--upgrade` all.
set -euo pipefail
cd "$(dirname "$0")/.."

resolved=$(mktemp)
trap 'rm -f "$resolved"' EXIT
grep -v '^torch-scatter' constraints.txt > "$resolved"
printf 'wheel\n' | uv pip compile pyproject.toml - --extra dev --extra spconv --universal --python-version 3.10 \
    --no-annotate --no-header --quiet --output-file "$resolved" "$@" > /dev/null

{
    cat <<'HEADER'
# Exact versions of everything that the Makefile installs, on Python 3.10 to 3.13. Written by scripts/pin.sh.
# Without them pip takes the newest torchvision for timm, which replaces torch. torch chooses its own CUDA libraries.
HEADER
    grep -vE "^(nvidia-|cuda-)|sys_platform == 'emscripten'" "$resolved" \
        | sed "s/ and sys_platform != 'emscripten'//; s/ ; sys_platform != 'emscripten'$//"
    echo 'torch-scatter==2.1.2'  # a source package whose metadata cannot be read without torch: pinned by hand
} > constraints.txt
