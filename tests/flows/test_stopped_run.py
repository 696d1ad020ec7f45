"""A run whose process is hit anywhere ends, once it is started again, with the metrics of one that nobody touched."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from endcap.contracts.reporting import Silent
from endcap.flows.resuming import FOLDER, Started
from endcap.flows.train_run import train_run
from endcap.workspace.locations import Location
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
MOMENTS = ("in a step", "in a checkpoint", "past a checkpoint", "in the refit")


class Hears(Silent):
    """Remembers which checkpoints a run went on from."""

    def __init__(self):
        self.went_on = []

    def event(self, event, **fields):
        if event.startswith("going on"):
            self.went_on.append(fields["stage"])


@pytest.fixture
def untrained(trained_shop, copy_of):
    """The trained shop without its release, features and all."""
    workspace = copy_of(trained_shop.workspace)
    shutil.rmtree(workspace.releases / "recommender")
    shutil.rmtree(workspace.ledger / "train")
    shutil.rmtree(workspace.runs / trained_shop.result.run_id)
    return workspace


@pytest.fixture
def hit(untrained, tmp_path):
    """A run that was hit at each moment, as a job with an id and a place for copies: exit codes, lines of each start, errors."""
    program = ["-m", "tests.flows.stopped_at", str(tmp_path / "said"), *MOMENTS, "--"]
    arguments = ["train", *TINY, "-w", str(untrained.path), "--log-format", "json"]
    job = {"RUN_ID": "run-7", "CHECKPOINT_DIR": str(tmp_path / "bucket"), "MODEL_DIR": str(tmp_path / "models")}
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env=os.environ | job,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [(tmp_path / "said" / f"{number}.jsonl").read_text().splitlines() for number in range(len(MOMENTS))]
    return json.loads(done.stdout), [[json.loads(line) for line in lines] for lines in said], done.stderr


def went_on(lines):
    return [(line["stage"], line["at_step"]) for line in lines if line["event"].startswith("going on")]


def manifests(location):
    return sorted(file.below(location) for file in location.list() if file.name == "manifest.json")


def test_hit_four_times_and_brought_elsewhere_it_ends_as_if_nothing_had_been(
    hit, untrained, trained_shop, copy_of, tmp_path, monkeypatch
):
    """Asked to end, killed in a checkpoint, killed past one, asked again; then another machine goes on by the copies alone."""
    codes, said, errors = hit
    assert codes == [128 + signal.SIGTERM, -signal.SIGKILL, -signal.SIGKILL, 128 + signal.SIGTERM], errors
    assert errors.count("Stopped by SIGTERM") == 2
    assert [went_on(lines) for lines in said[:3]] == [[], [("tune", 3)], [("tune", 3)]]
    ((stage, step),) = went_on(said[3])
    assert (stage, step > 3) == ("tune", True)

    kept = Location.parse(tmp_path / "bucket")
    refit = f"run-7/refit/{2:010d}-0000/manifest.json"
    assert manifests(kept) == [refit, "run-7/tune/finished/manifest.json"]
    other, hears = copy_of(untrained), Hears()
    shutil.rmtree(other.runs / "run-7")

    def dying(*arguments):
        raise RuntimeError("the machine went down")

    with monkeypatch.context() as patched:
        patched.setattr("endcap.flows.train_run.ledger.record_entry", dying)
        with pytest.raises(RuntimeError):
            train_run(other, trained_shop.configuration, hears, Started("run-7", kept))
    assert hears.went_on == ["tune", "refit"]

    # The release is made by then, and no second one comes of the next start.
    result = train_run(other, trained_shop.configuration, Silent(), Started("run-7", kept))
    (made,) = [path for path in (other.releases / "recommender").iterdir() if path.name.isdigit()]
    assert (result.run_id, result.release.path) == ("run-7", made)
    assert result.release.manifest.metrics == trained_shop.result.release.manifest.metrics
    mine, theirs = result.release.manifest.files, trained_shop.result.release.manifest.files
    assert {name for name in mine if mine[name] != theirs[name]} <= {"report/index.html", "report/report.md"}
    assert not list((other.releases / "recommender").glob(".*"))
    assert not (other.runs / "run-7" / FOLDER).exists()
    assert manifests(kept) == ["run-7/refit/finished/manifest.json", "run-7/tune/finished/manifest.json"]
