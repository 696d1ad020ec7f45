#!/usr/bin/env bash
# system-packages.sh NEED...: makes sure that the machine has `python`, `openmp`, `chromium` or `wrk`; installs what is missing.
# Root (or sudo) is asked for only when something is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/progress.sh
source scripts/python.sh

has() {
  local browser
  case $1 in
    python) find_python >/dev/null ;;
    chromium)
      for browser in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$browser" >/dev/null && return 0
      done
      return 1
      ;;
    # LightGBM's wheel takes the system's.
    openmp) [[ $(ldconfig -p 2>/dev/null || /sbin/ldconfig -p) == *libgomp.so.1* ]] ;;
    wrk) command -v wrk >/dev/null ;;
    *)
      say "system-packages.sh knows python, openmp, chromium and wrk, not: $1" >&2
      exit 2
      ;;
  esac
}

# Debian's names of the packages that give what $1 stands for.
packages_for() {
  local bare
  if [[ $1 == openmp ]]; then
    say libgomp1
  elif [[ $1 != python ]]; then
    say "$1"
  elif bare=$(find_bare_python); then
    "$bare" -c 'import sys; print(f"python{sys.version_info.major}.{sys.version_info.minor}-venv")'
  else
    say python3 python3-venv
  fi
}

missing=()
for need in "$@"; do
  has "$need" || missing+=("$need")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

if [[ " ${missing[*]} " == *' python '* && -n ${PYTHON-} ]]; then
  say "PYTHON=$PYTHON is no Python $PYTHON_AT_LEAST or newer with the venv and ensurepip modules. Name another, or unset PYTHON." >&2
  exit 2
fi

packages=()
for need in "${missing[@]}"; do
  read -r -a names <<<"$(packages_for "$need")"
  packages+=("${names[@]}")
done

as_root=()
cannot=''
if ! command -v apt-get >/dev/null; then
  cannot='This machine has no apt-get'
elif ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    cannot='You are not root and there is no sudo'
  elif [[ -t 0 ]] || sudo -n true 2>/dev/null; then
    as_root=(sudo)
  else
    cannot='You are not root, and sudo wants a password but there is no terminal to ask on'
  fi
fi

if [[ -n $cannot ]]; then
  {
    say "Missing on this machine: ${missing[*]} (Debian packages: ${packages[*]})."
    say "$cannot, so they can't be installed from here. Have an administrator run"
    say "    apt-get install --no-install-recommends ${packages[*]}"
    say 'or the like for your system, then run the same make target again.'
  } >&2
  exit 2
fi

say "Missing on this machine: ${packages[*]}. Installing with apt-get${as_root[0]:+ (sudo may ask for your password)}."
if ((${#as_root[@]})); then
  sudo -v
fi
# A list that can't be refreshed (a foreign source that is down) need not stand in the way of these packages.
step 'Refreshing the package lists' "${as_root[@]}" apt-get update -q || say 'Going on with the package lists at hand.' >&2
step "Installing ${packages[*]}" \
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}"

for need in "${missing[@]}"; do
  if ! has "$need"; then
    say "${packages[*]} installed, but $need still can't be used. Is an older Python first on PATH? Set PYTHON=/path/to/python." >&2
    exit 2
  fi
done
