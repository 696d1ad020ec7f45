# Sourced by the other scripts: which Python makes the environments, and how an environment is made.
# shellcheck shell=bash

PYTHON_AT_LEAST='3.11'

_is_new_enough() {
  "$1" -c "import sys; sys.exit(sys.version_info < (${PYTHON_AT_LEAST/./, }))" >/dev/null 2>&1
}

_makes_environments() {
  "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

# Prints the first Python that is new enough and passes the test $1. $PYTHON, where set, is the only candidate;
# else the version that requirements.lock was made with comes first.
_first_python() {
  local candidate
  local -a candidates=(python3.11 python3.12 python3.13 python3 /usr/bin/python3)
  if [[ -n ${PYTHON-} ]]; then
    candidates=("$PYTHON")
  fi
  for candidate in "${candidates[@]}"; do
    if _is_new_enough "$candidate" && "$1" "$candidate"; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

# A Python that can make environments.
find_python() {
  _first_python _makes_environments
}

# A Python that may lack the modules for environments.
find_bare_python() {
  _first_python true
}

# make_environment FOLDER: leaves a working virtual environment with pip at FOLDER; an existing one is kept if it works.
make_environment() {
  local folder=$1
  if ! _is_new_enough "$folder/bin/python"; then
    rm -rf "$folder"
    step "Making $folder with $(find_python)" "$(find_python)" -m venv "$folder"
  fi
  if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    step "Putting pip into $folder" "$folder/bin/python" -m ensurepip --upgrade
  fi
}
