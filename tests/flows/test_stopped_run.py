"""A run whose process is hit anywhere ends, once it is started again, with the metrics of one that nobody touched."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from endcap.contracts.reporting import Silent
from endcap.contracts.stopping import Stop, Stopped
from endcap.flows.resuming import FOLDER, Started
from endcap.flows.train_run import train_run
from endcap.releases.bundle import open_release
from endcap.workspace.layout import Workspace
from endcap.workspace.locations import Location
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
NUM_MOMENTS = 20


@pytest.fixture
def untrained(trained_shop, copy_of):
    """The trained shop without its release, features and all."""
    workspace = copy_of(trained_shop.workspace)
    shutil.rmtree(workspace.releases / "recommender")
    shutil.rmtree(workspace.ledger / "train")
    shutil.rmtree(workspace.runs / trained_shop.result.run_id)
    return workspace


def command(workspace, *overrides, moment=None):
    program = ["tests.flows.stopped_at", moment] if moment else ["endcap"]
    return [
        sys.executable,
        "-m",
        *program,
        "train",
        *TINY,
        *overrides,
        "-w",
        str(workspace.path),
        "--log-format",
        "json",
    ]


def started(workspace, *overrides, moment=None):
    return subprocess.run(
        command(workspace, *overrides, moment=moment), cwd=ROOT, capture_output=True, text=True, check=False
    )


def said(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def runs_of(workspace):
    return sorted(path.name for path in workspace.runs.glob("train-*"))


def test_hit_in_a_step_in_a_checkpoint_and_in_the_evaluation_it_ends_as_if_nothing_had_been(untrained, trained_shop):
    """One run, four starts: each goes on where the one before was, the last makes the very release."""
    asked = started(untrained, moment="in a step")
    assert asked.returncode == 128 + signal.SIGTERM, asked.stderr
    assert "Stopped by SIGTERM" in asked.stderr
    (run_id,) = runs_of(untrained)
    (checkpoint,) = (untrained.runs / run_id / FOLDER / "tune").glob("*/manifest.json")
    assert json.loads(checkpoint.read_bytes())["step"] == 3

    killed = started(untrained, moment="in a checkpoint")
    assert killed.returncode == -signal.SIGKILL
    assert [line["at_step"] for line in said(killed) if line["event"].startswith("going on")] == [3]
    assert list((untrained.runs / run_id / FOLDER / "tune").glob(".*.tmp"))
    assert list((untrained.runs / run_id / FOLDER / "tune").glob("*/manifest.json")) == [checkpoint]

    judged = started(untrained, moment="in the evaluation")
    assert judged.returncode == -signal.SIGKILL
    assert len(list((untrained.releases / "recommender").glob(".staging-*"))) == 1

    result = train_run(untrained, trained_shop.configuration, Silent())
    assert runs_of(untrained) == [run_id] == [result.run_id]
    assert result.release.manifest.metrics == trained_shop.result.release.manifest.metrics
    mine, theirs = result.release.manifest.files, trained_shop.result.release.manifest.files
    assert {name for name in mine if mine[name] != theirs[name]} <= {"report/index.html", "report/report.md"}
    assert not list((untrained.releases / "recommender").glob(".*"))
    assert not (untrained.runs / run_id / FOLDER).exists()


def test_a_run_that_was_hit_after_its_release_makes_no_second_one(untrained, trained_shop, monkeypatch):
    def dying(*arguments):
        raise RuntimeError("the machine went down")

    with monkeypatch.context() as patched:
        patched.setattr("endcap.flows.train_run.ledger.record_entry", dying)
        with pytest.raises(RuntimeError):
            train_run(untrained, trained_shop.configuration, Silent())
    (made,) = [path for path in (untrained.releases / "recommender").iterdir() if path.name.isdigit()]
    result = train_run(untrained, trained_shop.configuration, Silent())
    assert result.release == open_release(made)
    assert train_run(untrained, trained_shop.configuration, Silent()).run_id == result.run_id


@dataclass
class Row:
    moment: str
    ended: str
    went_on: str
    equal: bool


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hit_at_twenty_random_moments_the_metrics_stay(ingested_shop, tmp_path, capsys):
    """SIGKILL and SIGTERM by turns, up to three times in a run; also in a checkpoint, the evaluation, after the release."""
    longer = ("training.num_epochs=6", "training.patience=6", "training.checkpoint_steps=4", "training.batch_size=16")
    base = tmp_path / "base"
    shutil.copytree(ingested_shop.path, base)
    begun = time.monotonic()
    whole = started(Workspace.open(base), *longer)
    seconds = time.monotonic() - begun
    assert whole.returncode == 0, whole.stderr
    expected = metrics_of(Workspace.open(base))
    for made in (base / "04_releases" / "recommender", base / ".ledger" / "train", *base.glob("03_runs/train-*")):
        shutil.rmtree(made)
    rng, rows = np.random.default_rng(5), []
    moments = ["in a step", "in a checkpoint", "in the evaluation", "after the release"]
    for number in range(NUM_MOMENTS):
        path = tmp_path / f"run-{number}"
        shutil.copytree(ingested_shop.path if number % 4 == 3 else base, path)  # some make their features too
        workspace = Workspace.open(path)
        for again in range(int(rng.integers(1, 4))):
            if not again and number < len(moments):
                moment, ended = moments[number], started(workspace, *longer, moment=moments[number]).returncode
            else:
                after_s = rng.uniform(0.2, 0.95) * seconds
                number_of_signal = (signal.SIGKILL, signal.SIGTERM)[(number + again) % 2]
                moment = f"{after_s:.1f} s {number_of_signal.name}"
                ended = hit_after(workspace, longer, after_s, number_of_signal)
            if ended == 0:
                rows.append(Row(moment, "0", "-", metrics_of(workspace) == expected))
                break
            rows.append(Row(moment, str(ended), "", True))
        last = started(workspace, *longer)
        assert last.returncode == 0, last.stderr
        on = [f"{line['stage']} step {line['at_step']}" for line in said(last) if line["event"].startswith("going on")]
        rows[-1].went_on, rows[-1].equal = ", ".join(on) or "-", metrics_of(workspace) == expected
        shutil.rmtree(path)
    with capsys.disabled():
        print(f"\n{'hit':28}{'exit':>6}  {'the last start went on from':42}metrics equal")
        for row in rows:
            print(f"{row.moment:28}{row.ended:>6}  {row.went_on:42}{'yes' if row.equal else 'NO'}")
    assert all(row.equal for row in rows)


def metrics_of(workspace):
    (release,) = [path for path in (workspace.releases / "recommender").iterdir() if path.name.isdigit()]
    return open_release(release).manifest.metrics


def hit_after(workspace, overrides, after_s, number):
    with subprocess.Popen(
        command(workspace, *overrides), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            return process.wait(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            return process.wait()


def test_a_run_of_a_given_id_goes_on_in_another_workspace_by_its_copies(untrained, trained_shop, copy_of, tmp_path):
    """As on a machine that comes in the place of one that vanished."""
    configuration, kept = trained_shop.configuration, Location.parse(tmp_path / "bucket")

    stop = Stop()

    class Stops(Silent):
        def progress(self, stage, done, total, note=""):
            if stage == "evaluating":
                stop.request()

    other = copy_of(untrained)
    with pytest.raises(Stopped):
        train_run(untrained, configuration, Stops(), Started("run-7", kept, stop))
    heard = []

    class Hears(Silent):
        def event(self, event, **fields):
            heard.append((event, fields))

    result = train_run(other, configuration, Hears(), Started("run-7", kept))
    assert result.run_id == "run-7"
    assert result.release.manifest.metrics == trained_shop.result.release.manifest.metrics
    went_on = [fields["stage"] for event, fields in heard if event.startswith("going on")]
    assert went_on == ["tune", "refit"]
    assert [file.below(kept) for file in kept.list() if file.name == "manifest.json"] == [
        "run-7/refit/finished/manifest.json", "run-7/tune/finished/manifest.json"
    ]  # fmt: skip
