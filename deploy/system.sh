#!/usr/bin/env bash
# system.sh: gives the base of an image what Python's packages can't bring: a Python that is new enough, OpenMP, an init.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/progress.sh
source scripts/python.sh

UV=uv==0.13.9
STANDALONE_PYTHON=3.11.14

export DEBIAN_FRONTEND=noninteractive
packages=(ca-certificates libgomp1 tini)
# Some bases name their maker's own package sources too; those may be down.
step 'Refreshing the package lists' apt-get update -q || say 'Going on with the package lists at hand.' >&2
if ! find_python >/dev/null; then
  packages+=(python3 python3-venv)
fi
step "Installing ${packages[*]}" apt-get install -q -y --no-install-recommends "${packages[@]}"
rm -rf /var/lib/apt/lists/*

if ! find_python >/dev/null; then
  # An older Python (Google's container has 3.10) is good enough to bring one that runs on any Linux.
  step 'Making an environment for uv' python3 -m venv /srv/endcap/uv
  step "Installing $UV" /srv/endcap/uv/bin/python -m pip install --no-cache-dir --progress-bar off "$UV"
  step "Installing Python $STANDALONE_PYTHON" \
    /srv/endcap/uv/bin/uv python install --install-dir /srv/endcap/python "$STANDALONE_PYTHON"
  ln -s /srv/endcap/python/*/bin/python3.11 /usr/local/bin/python3.11
  rm -rf /srv/endcap/uv
fi
say "Python: $(find_python)"
