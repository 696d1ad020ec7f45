"""A quick test done on another machine gives what it gives here, and its record comes back."""

from __future__ import annotations

import json

import msgspec
import pytest

from endcap.cli.main import main
from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.job import OPTIONAL, PLATFORM, REQUIRED
from endcap.contracts.reporting import Silent
from endcap.flows import quicktest, quicktest_cloud
from endcap.flows.quicktest_record import EIGHT, records_of
from endcap.flows.submission import plan_quicktest, plan_vertex
from endcap.workspace.job_environment import read_job_environment

CHANGE = ["model.output_embedding_dim=5", "training.num_negatives=10"]


@pytest.fixture
def shop(trained_shop, copy_of, monkeypatch):
    for name in (*REQUIRED, *OPTIONAL, *PLATFORM):
        monkeypatch.delenv(name, raising=False)
    return copy_of(trained_shop.workspace), trained_shop.result.run_id


def test_the_same_metrics_there_as_here(shop, vertex, tmp_path, capsys):
    workspace, source = shop
    here = quicktest.run_quicktest(
        workspace, quicktest.plan(workspace, source, overrides=CHANGE, num_epochs=1), Silent()
    )
    staging, models = tmp_path / "bucket" / "staging", tmp_path / "bucket" / "models"
    file = tmp_path / "submit.yaml"
    file.write_text(
        f"project: acme-shop\nregion: us-central1\nbucket: acme\nimage_uri: img.example/train:1\npoll_seconds: 0.01\n"
        f"api_endpoint: {vertex.endpoint}\nlog_endpoint: {vertex.http}\nmachine: {{machine_type: n1-standard-8, "
        f"accelerator_type: null, accelerator_count: 0}}\nenv: {{STAGING_PREFIX: {staging}, MODEL_DIR: {models}}}\n"
    )

    def container(job):
        if models.exists():
            return
        spec = job.job_spec.worker_pool_specs[0].container_spec
        assert list(spec.args)[:4] == ["endcap", "quicktest", "--source-run", source]
        environment = read_job_environment({each.name: each.value for each in spec.env}, tmp_path)
        quicktest_cloud.run_staged(spec.args[spec.args.index("--staged") + 1], environment, Silent())

    vertex.stories.append(["RUNNING", "SUCCEEDED"])
    vertex.on_success = container
    asked = ["quicktest", "--source-run", source, "-w", str(workspace.path), "--epochs", "1", *CHANGE]
    there = [*asked, "--target", "vertex", "--config", str(file), "--wait", "--log-format", "json"]
    told = [json.loads(line) for line in _said(there, capsys)]
    assert told[-1]["event"] == "quick test ended"
    first, second = records_of(workspace, source)
    assert first == here
    assert second.state == "completed"
    assert {name: second.metrics[name] for name in EIGHT} == {name: here.metrics[name] for name in EIGHT}
    assert (second.changes, second.source_metrics) == (here.changes, here.source_metrics)
    # Asked for again by its name, it is fetched and not run again.
    again = [json.loads(line) for line in _said([*there, "--run-id", second.run_id], capsys)]
    assert [line["event"] for line in again] == ["quick test ended"]
    assert len(vertex.jobs) == 1
    # The workspace's key stays here.
    key = workspace.key.hex()
    assert not [
        path for path in (tmp_path / "bucket").rglob("*") if path.is_file() and key.encode() in path.read_bytes()
    ]


def _said(arguments, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


def test_one_that_fails_leaves_its_record(shop, tmp_path):
    workspace, source = shop
    planned = quicktest.plan(workspace, source, num_epochs=1)
    place = quicktest_cloud.stage(workspace, planned, "q-1", str(tmp_path / "staging"))
    assert quicktest_cloud.stage(workspace, planned, "q-2", str(tmp_path / "staging")).parent == place.parent
    job = read_job_environment({"MODEL_DIR": str(tmp_path / "models")}, tmp_path)
    with pytest.raises(quicktest.TimedOutError):
        quicktest_cloud.run_staged(str(place), job, Silent(), timeout_s=0)
    record = quicktest_cloud.fetch(workspace, "q-1", str(tmp_path / "models"))
    assert record.state == "timed_out"
    assert quicktest_cloud.fetch(workspace, "q-2", str(tmp_path / "models")) is None


def test_data_that_are_gone_and_records_of_others(shop, tmp_path):
    workspace, source = shop
    planned = quicktest.plan(workspace, source, num_epochs=1)
    damaged = tmp_path / "asked.json"
    damaged.write_text("{}")
    job = read_job_environment({"MODEL_DIR": str(tmp_path)}, tmp_path)
    with pytest.raises(ArtifactError, match="can't be read as a quick test"):
        quicktest_cloud.run_staged(str(damaged), job, Silent())
    (tmp_path / "q-3").mkdir()
    (tmp_path / "q-3" / "quicktest.json").write_bytes(msgspec.json.encode({
        "run_id": "q-4", "source_run": source, "state": "completed", "started_at": "", "changes": {}, "num_epochs": 1,
        "num_parameters": 1,
    }))  # fmt: skip
    with pytest.raises(InputError, match="is the record of q-4"):
        quicktest_cloud.fetch(workspace, "q-3", str(tmp_path))
    planned.folder.rename(tmp_path / "gone")
    with pytest.raises(ArtifactError, match="are gone"):
        quicktest_cloud.stage(workspace, planned, "q-5", str(tmp_path / "staging"))


def test_refusals_are_those_of_any_job(shop, vertex_config):
    workspace, source = shop
    configuration = quicktest.plan(workspace, source).configuration
    with pytest.raises(InputError, match="offers no NVIDIA_L4"):
        plan_quicktest(vertex_config(region="europe-north1"), configuration, source, "q-6", workspace, environment={})
    planned = plan_quicktest(
        vertex_config(), configuration, source, "q-6", workspace, timeout_minutes=2.5, environment={}
    )
    assert planned.job.arguments[-4:] == ("--timeout", "2.5", "--log-format", "json")
    assert "gs://acme/staging/quicktests/asked/q-6.json" in planned.job.arguments
    assert planned.job.environment == plan_vertex(vertex_config(), [], "q-6", {}).job.environment | {
        "EXPERIMENT_NAME": configuration.experiment, "VERTEX_EXPERIMENT": configuration.experiment,
    }  # fmt: skip
