#!/usr/bin/env bash
# lock.sh [--upgrade]: writes requirements.lock, the exact version of everything that any extra brings in.
# Pins that still fit pyproject.toml stay; --upgrade takes the newest of each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/progress.sh

OLDEST_PYTHON=3.11.2 # Debian 12's: a release that asks for a later patch can't be installed there

folder=$(mktemp -d)
trap '_end_step; rm -rf "$folder"' EXIT
if [[ -f requirements.lock ]]; then
  cp requirements.lock "$folder/resolved"
fi
touch "$folder/too-new"

while true; do
  step 'Resolving all extras' .venv/bin/pip-compile --all-extras --strip-extras --allow-unsafe --unsafe-package pip \
    --no-header --no-annotate --no-emit-options --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
    --constraint "$folder/too-new" --output-file "$folder/resolved" "$@" pyproject.toml

  # Left out: the project itself, and the build's own name (+cpu), so that the lock fits any build of the same version.
  {
    say '# Made by make lock: given to pip as constraints by every make target. Do not edit by hand.'
    sed -n -E 's/^([a-z0-9][a-z0-9.-]*==[^ +#]+)(\+[^ #]*)?.*$/\1/p' "$folder/resolved" | grep -v '^pip=='
  } >"$folder/lock"

  step "Asking each package whether Python $OLDEST_PYTHON will do" .venv/bin/python -m pip install --dry-run --progress-bar off \
    --ignore-installed --no-deps --report "$folder/report.json" --requirement "$folder/lock"
  too_new=$(.venv/bin/python scripts/too_new.py "$folder/report.json" "$OLDEST_PYTHON")
  if [[ -z $too_new ]]; then
    break
  fi
  say "Not for Python $OLDEST_PYTHON, so older than: ${too_new//$'\n'/, }"
  say "$too_new" >>"$folder/too-new"
done

cp "$folder/lock" requirements.lock
say "requirements.lock: $(grep -c == requirements.lock) packages"
