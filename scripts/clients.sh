#!/usr/bin/env bash
# clients.sh: makes .venv-clients hold the stock clients that the tests run against real servers, apart from .venv: what
# they require clashes with what the project does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/progress.sh
source scripts/python.sh

folder=.venv-clients
wheels=$folder/wheels
scripts/system-packages.sh python
make_environment "$folder"
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip=("$folder/bin/python" -m pip)
step "Installing tritonclient into $folder" \
  "${pip[@]}" install --no-compile --progress-bar off --requirement tests/clients/requirements.txt
step "Installing TensorFlow Serving's stub into $folder" \
  "${pip[@]}" install --no-compile --progress-bar off --no-deps --requirement tests/clients/requirements-alone.txt
step "Fetching TensorFlow's messages" \
  "${pip[@]}" download --progress-bar off --no-deps --dest "$wheels" --requirement tests/clients/requirements-messages.txt
"$folder/bin/python" - "$wheels"/*.whl <<'EOF'
import sys
import sysconfig
import zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    names = [name for name in wheel.namelist() if name.startswith("tensorflow/") and name.endswith("_pb2.py")]
    wheel.extractall(sysconfig.get_path("purelib"), names)
EOF
rm -r "$wheels"
touch "$folder/.installed"
