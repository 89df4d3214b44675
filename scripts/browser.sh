#!/usr/bin/env bash
# Finds the browser that tests of the console drive: $CHROMIUM, else `chromium` in PATH, else Debian's package,
# which it installs where it may.
set -euo pipefail

say() { printf 'browser: %s\n' "$*"; }

if found=$(command -v "${CHROMIUM:-chromium}"); then
  say "$found"
elif [ -n "${CHROMIUM:-}" ]; then
  say "CHROMIUM is '$CHROMIUM', and that is no program: give the path of one, or leave it out" >&2
  exit 1
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  say "installing Debian's chromium (100 MB)"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get update && apt-get install -y --no-install-recommends chromium; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "apt-get could not install chromium: install it by hand, or set CHROMIUM to the path of one" >&2
    exit 1
  fi
  say "$(command -v chromium)"
else
  say "no chromium: install it (apt-get install chromium, as root), or set CHROMIUM to the path of one" >&2
  exit 1
fi
