#!/usr/bin/env bash
# peer.sh NAME: makes .venv-peers/NAME hold what benchmarks/peers/NAME/requirements.txt names, apart from .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/progress.sh
source scripts/python.sh

name=${1-}
requirements=benchmarks/peers/$name/requirements.txt
if [[ -z $name || ! -f $requirements ]]; then
  say "peer.sh needs the name of a folder below benchmarks/peers that holds a requirements.txt; got: ${name:-nothing}" >&2
  exit 2
fi

scripts/system-packages.sh python
make_environment ".venv-peers/$name"
export PIP_DISABLE_PIP_VERSION_CHECK=1
step "Installing the peer $name into .venv-peers/$name" \
  ".venv-peers/$name/bin/python" -m pip install --progress-bar off --requirement "$requirements"
touch ".venv-peers/$name/.installed"
