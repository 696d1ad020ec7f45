#!/usr/bin/env bash
# setup.sh LEVEL: makes .venv hold the project and what LEVEL needs: train, dev (all that tests and checks need) or docs.
# pip is left to its own configuration (PIP_* variables, pip.conf), so mirrors and local wheels work as everywhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/progress.sh
source scripts/python.sh

level=${1-}
case $level in
  train | docs) levels=("$level") ;;
  dev) levels=(train dev) ;;
  *)
    say "setup.sh needs a level: train, dev or docs; got: ${level:-nothing}" >&2
    exit 2
    ;;
esac

needs=(python)
[[ $level == docs ]] || needs+=(openmp)
scripts/system-packages.sh "${needs[@]}"

here=$(pwd -P)
if [[ -f .venv/.stamps/home && $(<.venv/.stamps/home) != "$here" ]]; then
  say "This checkout was moved from $(<.venv/.stamps/home): making .venv again, since its commands name the old place."
  rm -rf .venv
fi
make_environment .venv

export PIP_DISABLE_PIP_VERSION_CHECK=1
# Compiling what is never imported, such as thousands of generated messages, would take minutes: Python compiles as it imports.
step "Installing endcap[$level] into .venv" \
  .venv/bin/python -m pip install --no-compile --progress-bar off --constraint requirements.lock --editable ".[$level]"

mkdir -p .venv/.stamps
printf '%s\n' "$here" >.venv/.stamps/home
for done in "${levels[@]}"; do
  touch ".venv/.stamps/$done"
done
