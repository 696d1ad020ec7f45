"""Several processes of one program on this machine, or on several, and their one exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.job import Cluster
from endcap.training.launchers.torchrun import Ended, ended_by, run_processes

ROOT = Path(__file__).resolve().parents[3]
TELLS = (
    "import json, os, sys; names = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR')\n"
    "open(sys.argv[1] + '/' + os.environ['RANK'], 'w').write(json.dumps([os.environ[name] for name in names]))"
)
ONE_ALONE = "import os, signal, time\nif os.environ['RANK'] == '1': {}\ntime.sleep(60)"
ASKED = (
    "import os, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
    "if os.environ['RANK'] == '1': os.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)"
)
MACHINE = (
    "import sys; from endcap.contracts.job import Cluster; from endcap.training.launchers.torchrun import run_processes\n"
    "sys.exit(run_processes(['-c', sys.argv[1], sys.argv[2]], 1, Cluster(1, 2, '127.0.0.1', int(sys.argv[3]))).exit_code)"
)


@pytest.fixture(autouse=True)
def _untouched_environment(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "")  # the agent sets it for its process


def told(folder):
    return {path.name: json.loads(path.read_text()) for path in folder.iterdir()}


def test_each_process_is_told_its_place(tmp_path):
    assert run_processes(["-c", TELLS, str(tmp_path)], 2) == Ended(0)
    assert told(tmp_path) == {rank: [rank, "2", rank, "127.0.0.1"] for rank in "01"}


@pytest.mark.parametrize(
    ("does", "ended"),
    [
        ("raise SystemExit(143)", Ended(143)),
        ("os.kill(os.getpid(), signal.SIGKILL)", Ended(137, "Process 1 was ended by SIGKILL, and the others with it.")),
    ],
)
def test_one_that_ends_ends_the_others(does, ended):
    assert run_processes(["-c", ONE_ALONE.format(does)], 2) == ended


def test_asked_to_end_it_asks_all_and_says_so():
    before = signal.getsignal(signal.SIGTERM)
    assert run_processes(["-c", ASKED], 2) == Ended(143)
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_machines_of_a_cluster_train_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join(part for part in sys.path if part)
    other = subprocess.Popen(
        [sys.executable, "-c", MACHINE, TELLS, str(tmp_path), str(port)], env=os.environ | {"PYTHONPATH": path}
    )
    mine = run_processes(["-c", TELLS, str(tmp_path)], 2, Cluster(0, 2, "127.0.0.1", port))
    assert (mine, other.wait(60)) == (Ended(0), 0)
    assert told(tmp_path) == {
        "0": ["0", "3", "0", "127.0.0.1"], "1": ["1", "3", "1", "127.0.0.1"], "2": ["2", "3", "0", "127.0.0.1"]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("failures", "code"),
    [
        ({0: (2, 100), 1: (143, 100)}, 2),
        ({0: (2, 100), 1: (-signal.SIGTERM, 100)}, 2),
        ({0: (1, 100), 1: (-signal.SIGKILL, 101)}, 137),  # whose connection broke, and the one that broke it
        ({0: (2, 100), 1: (-signal.SIGKILL, 130)}, 2),  # which didn't end when it was asked to
        ({1: (-signal.SIGTERM, 100), 0: (143, 101)}, 143),
    ],
)
def test_the_exit_code_is_of_the_one_that_the_others_ended_for(failures, code):
    assert ended_by(failures).exit_code == code


def test_one_torchrun_is_enough(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    with pytest.raises(InputError, match="Found --processes 2 in a process that torchrun started"):
        run_processes(["-c", ""], 2)
