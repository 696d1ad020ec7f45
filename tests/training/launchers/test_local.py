"""Jobs as processes of this machine."""

from __future__ import annotations

import os
import time

import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Silent
from endcap.training.launchers.local import LocalLauncher
from endcap.training.launchers.protocol import Job, Phase
from endcap.training.launchers.waiting import JobFailedError, Waiting

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
# Ends as one that was told to stop, the first time; the second time it goes on where it was.
RESUMED = (
    "import json, os, pathlib, sys; mark = pathlib.Path(os.environ['MARK'])\n"
    "if not mark.exists(): mark.touch(); sys.exit(143)\n"
    "print(json.dumps({'event': 'metric', 'run_id': 'train-7', 'step': 0, 'metric': 'mrr', 'value': 0.5}))"
)


def job(program, **environment):
    return Job("job-1", ("-c", program), command=("-I",), environment=environment)


def until(said, launcher, handle):
    for _ in range(500):
        lines = list(launcher.lines(handle))
        if lines:
            assert lines == [{"message": said}]
            return
        time.sleep(0.01)
    pytest.fail("nothing was said")


def test_one_that_was_stopped_is_started_again(tmp_path):
    launcher = LocalLauncher(tmp_path)
    ended = Waiting(
        launcher, job(RESUMED, MARK=str(tmp_path / "mark")), Silent(), max_resubmissions=1, poll_s=0.01
    ).run()  # fmt: skip
    assert (ended.num_attempts, ended.run_id, ended.metrics) == (2, "train-7", {"mrr": 0.5})
    assert [path.name for path in sorted((tmp_path / "job-1").iterdir())] == ["job-1.jsonl", "job-2.jsonl"]


def test_a_fault_is_told_with_its_last_words_and_not_repeated(tmp_path):
    program = "import sys; print('{\"event\": \"begun\"}'); sys.exit('error: no such experiment')"
    with pytest.raises(JobFailedError, match="failed: exit code 1: error: no such experiment"):
        Waiting(LocalLauncher(tmp_path), job(program), Silent(), max_resubmissions=3, poll_s=0.01).run()
    assert len(list((tmp_path / "job-1").iterdir())) == 1


@pytest.mark.parametrize("program", [SLEEPER, STUBBORN])
def test_cancelling_ends_it(tmp_path, program):
    launcher = LocalLauncher(tmp_path, grace_s=0.1)
    handle = launcher.start(job(program), 1)
    assert launcher.status(handle).phase is Phase.RUNNING
    until("up", launcher, handle)
    launcher.cancel(handle)
    assert launcher.status(handle).phase is Phase.CANCELLED
    with pytest.raises(ProcessLookupError):
        os.kill(int(handle), 0)


def test_the_time_over_ends_it(tmp_path):
    with pytest.raises(JobFailedError, match="was cancelled"):
        Waiting(LocalLauncher(tmp_path), job(SLEEPER), Silent(), timeout_s=0.1, poll_s=0.01).run()


def test_half_a_line_waits_for_its_other_half(tmp_path):
    launcher = LocalLauncher(tmp_path)
    handle = launcher.start(job("pass"), 1)
    while not launcher.status(handle).phase.is_over:
        time.sleep(0.01)
    running, log = launcher.start(job(SLEEPER), 2), tmp_path / "job-1" / "job-2.jsonl"
    until("up", launcher, running)
    with log.open("ab") as file:
        file.write(b'{"event": "ep')
        file.flush()
        assert list(launcher.lines(running)) == []
        file.write(b'och"}\n')
    assert list(launcher.lines(running)) == [{"event": "epoch"}]
    launcher.cancel(running)


def test_somebody_else_s_process_is_not_touched(tmp_path):
    with pytest.raises(InputError, match="no process that was started here"):
        LocalLauncher(tmp_path).cancel("1")
