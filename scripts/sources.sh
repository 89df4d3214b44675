#!/usr/bin/env bash
# Puts the sources that sources.lock pins into .sources, a folder each: the Python files of the wheel for Linux,
# whatever this machine is. Nothing of it is installed or imported. `make sources` runs it when the lock has changed.
set -euo pipefail
cd "$(dirname "$0")/.."

SOURCES=.sources
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT

printf 'sources: fetching %s (hundreds of MB, kept only while they are unpacked)\n' "$(grep -o '^[a-z].*==[^ ]*' sources.lock | xargs)"
.venv/bin/python -m pip --disable-pip-version-check download -q --no-cache-dir --no-deps --require-hashes \
  --only-binary :all: --platform manylinux_2_28_x86_64 --python-version 3.11 --dest "$wheels" -r sources.lock \
  2> >(grep -v 'WARNING: Location .* is ignored' >&2 || true)
rm -rf "$SOURCES"
for wheel in "$wheels"/*.whl; do
  .venv/bin/python - "$wheel" "$SOURCES/$(basename "$wheel" | cut -d- -f1,2)" <<'EOF'
import sys, zipfile
wheel, folder = sys.argv[1:]
with zipfile.ZipFile(wheel) as files:
    files.extractall(folder, [name for name in files.namelist() if name.endswith(".py")])
EOF
done
