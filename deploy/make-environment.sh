#!/usr/bin/env bash
# make-environment.sh FOLDER [EXTRA,...]: makes FOLDER an environment with endcap[EXTRA,...], as requirements.lock pins it.
# make-environment.sh FOLDER --code-alone: puts this code into it, in place of what it has, and touches no library.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/progress.sh
source scripts/python.sh

folder=${1-}
extras=${2-}
if [[ -z $folder ]]; then
  say 'make-environment.sh needs the folder of the environment' >&2
  exit 2
fi

make_environment "$folder"
install=("$folder/bin/python" -m pip install --progress-bar off)
if [[ $extras == --code-alone ]]; then
  step 'Installing the code' "${install[@]}" --no-deps --force-reinstall .
  "$folder/bin/endcap" --version
else
  step "Installing endcap[$extras]" "${install[@]}" --constraint requirements.lock ".${extras:+[$extras]}"
fi
