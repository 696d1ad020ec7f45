"""A run of Weights & Biases' own client, offline: what its files hold, and what they must not."""

import json
import sys
from pathlib import Path

import pytest

from endcap.contracts.trackers import TrackersConfig, WandbConfig
from endcap.flows.tracking import trackers_of
from endcap.training.trackers.telling import Tracked
from endcap.training.trackers.wandb import WandbTracker
from tests.training.trackers.told import RUN_ID, Told, a_model, a_run
from tests.training.trackers.wandb_log import whole

KEY = "0123456789abcdef0123456789abcdefplanted1"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A whole run, with a planted key; the folder it wrote, its records, what was warned of."""
    folder = tmp_path_factory.mktemp("wandb")
    told, model = Told(), a_model(folder / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED_KEY", KEY)
        patch.setenv("HOME", str(folder / "home"))
        config = WandbConfig(
            enabled=True, entity="acme", project="shop", mode="offline", api_key="secret://planted-key", log_model=True
        )
        tracked = Tracked([WandbTracker(config)], told)
        tracked.start(a_run(folder / "run"))
        for epoch, loss in enumerate((0.9, 0.7), start=1):
            tracked.metric(epoch, "loss", loss)
        tracked.metric(0, "loss", 0.25)
        tracked.artifact(model.path, "report")
        tracked.model(model)
        tracked.finish("finished")
    (log,) = (folder / "run").rglob("*.wandb")
    records = whole(log)
    return folder, records, told


def test_the_run_its_configuration_and_its_facts(written):
    _, records, told = written
    assert told.events == []
    (run,) = [one.run for one in records if one.HasField("run")]
    assert (run.run_id, run.project, run.entity, run.run_group) == (RUN_ID, "shop", "acme", "baseline")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["training"] == {"learning_rate": 0.003, "refit": True}
    assert config["endcap"]["git_sha"] == a_run(Path()).git_sha
    assert config["endcap"]["data_version.events"] == 5


def test_metrics_by_epoch_and_of_the_whole_run(written):
    _, records, _ = written
    rows = []
    for record in records:
        if record.HasField("history"):
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({name: value for name, value in row.items() if not name.startswith("_")})
    assert rows == [{"epoch": 1, "loss": 0.9}, {"epoch": 2, "loss": 0.7}]
    summary = {}
    for record in records:
        for item in record.summary.update:
            summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    assert (summary["loss"], summary["test/loss"]) == (0.7, 0.25)
    (end,) = [one.exit for one in records if one.HasField("exit")]
    assert end.exit_code == 0


def test_artifacts_are_the_report_and_the_model(written):
    folder, records, _ = written
    kept = {}
    for record in records:
        found = record.request.log_artifact.artifact if record.HasField("request") else record.artifact
        if found.name:
            kept[found.name] = found
    assert {name: found.type for name, found in kept.items()} == {f"{RUN_ID}-report": "report", "recommender": "model"}
    model = kept["recommender"]
    assert {one.path for one in model.manifest.contents} == {"manifest.json", "candidates/vectors.npy"}
    assert json.loads(model.metadata)["digest"] == "ab" * 32
    sources = {Path(one.local_path).resolve() for one in model.manifest.contents}
    assert all(source.is_relative_to(folder / "models") for source in sources)  # no copies elsewhere


def test_neither_the_key_nor_the_command_line_is_in_it(written):
    folder, records, _ = written
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert [path for path in files if path.name == ".netrc"] == []
    log = b"".join(record.SerializeToString() for record in records)
    assert KEY.encode() not in log
    assert sys.argv[0].encode() not in log


def test_switched_off_it_writes_nothing(tmp_path):
    assert trackers_of(TrackersConfig(wandb=WandbConfig(enabled=True, mode="disabled"))) == []
    assert trackers_of(TrackersConfig()) == []


def test_without_its_client_it_is_said_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracked = Tracked([WandbTracker(WandbConfig(enabled=True, mode="offline"))], told := Told())
    tracked.start(a_run(tmp_path))
    tracked.finish("finished")
    ((_, fields),) = told.events
    assert 'pip install "endcap[wandb]"' in fields["error"]
