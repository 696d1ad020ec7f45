"""A run on a real MLflow server, read back through MLflow's own client."""

import hashlib
import os

import pytest
from mlflow import MlflowClient

from endcap.contracts.trackers import MlflowConfig
from endcap.training.trackers.mlflow import MlflowTracker
from endcap.training.trackers.telling import Tracked
from tests.training.trackers.mlflow_server import mlflow_server
from tests.training.trackers.told import RUN_ID, Told, a_model, a_run


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as found:
        yield found


def the_run(address, experiment, run_id=RUN_ID):
    client = MlflowClient(tracking_uri=address)
    place = client.get_experiment_by_name(experiment).experiment_id
    (found,) = client.search_runs([place], f"tags.`endcap.run_id` = '{run_id}'")
    return client, found


def test_parameters_metrics_tags_artifacts_and_the_model_are_there(address, tmp_path):
    told, model = Told(), a_model(tmp_path)
    tracked = Tracked([MlflowTracker(MlflowConfig(uri=address, log_model=True))], told)
    tracked.start(a_run(tmp_path))
    for epoch, loss in enumerate((0.9, 0.7, 0.6), start=1):
        tracked.metric(epoch, "loss", loss)
        tracked.metric(epoch, "mean/recall@10", epoch / 10)
    tracked.metric(0, "loss", 0.25)
    tracked.artifact(model.path / "manifest.json", "run")
    tracked.artifact(model.path, "report")
    tracked.model(model)
    tracked.finish("finished")
    assert told.events == []

    client, run = the_run(address, "baseline")
    assert run.info.run_name == RUN_ID
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "training.learning_rate": "0.003",
        "training.refit": "True",
        "model.buyer_tower": '[{"units": 64}]',
        "model.top_k": "100",
        "seed": "7",
    }
    assert run.data.tags["mlflow.source.git.commit"] == a_run(tmp_path).git_sha
    assert run.data.tags["endcap.data_version.events"] == "5"
    assert run.data.tags["endcap.dataset_version"] == "3"
    assert [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "loss")] == [
        (1, 0.9), (2, 0.7), (3, 0.6),
    ]  # fmt: skip
    assert run.data.metrics["mean/recall_at_10"] == 0.3
    assert (run.data.metrics["loss"], run.data.metrics["test/loss"]) == (0.6, 0.25)

    copied = client.download_artifacts(run.info.run_id, "", str(tmp_path))
    files = {path.relative_to(copied).as_posix() for path in type(tmp_path)(copied).rglob("*") if path.is_file()}
    assert {"run/manifest.json", "report/manifest.json", "report/candidates/vectors.npy"} <= files
    (output,) = run.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert logged.name == "recommender"
    assert logged.status == "READY"
    assert logged.tags["endcap_digest"] == model.digest
    assert logged.tags["is_blessed"] == "true"
    assert {one.path for one in client.list_logged_model_artifacts(output.model_id)} == {"candidates", "manifest.json"}
    whole = hashlib.sha256((tmp_path / "report" / "manifest.json").read_bytes()).hexdigest()
    assert whole == hashlib.sha256((model.path / "manifest.json").read_bytes()).hexdigest()


def test_a_run_gone_on_with_is_the_same_run_there(address, tmp_path, monkeypatch):
    monkeypatch.setenv("PLANTED_PASSWORD", "a-password")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
    config = MlflowConfig(uri=address, experiment="preempted", username="ann", password="secret://planted-password")  # noqa: S106
    for first, outcome in ((1, "stopped"), (3, "finished")):
        tracked = Tracked([MlflowTracker(config)], Told())
        tracked.start(a_run(tmp_path))
        for epoch in (first, first + 1):
            tracked.metric(epoch, "loss", 1.0 / epoch)
        tracked.finish(outcome, timeout_s=60)
        client, run = the_run(address, "preempted")
        assert run.info.status == {"stopped": "KILLED", "finished": "FINISHED"}[outcome]
    assert [one.step for one in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4]
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "somebody"
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ


def test_many_parameters_and_metrics_go_in_parts(address, tmp_path):
    tracked = Tracked([MlflowTracker(MlflowConfig(uri=address, experiment="large"))], told := Told())
    run = a_run(tmp_path)
    run.configuration["features"] = {f"column_{number}": "x" * 7_000 for number in range(250)}
    tracked.start(run)
    for number in range(250):
        tracked.metric(0, f"slice_{number}", number)
    tracked.finish("finished")
    assert told.events == []
    _, found = the_run(address, "large")
    assert len(found.data.params) == 255
    assert len(found.data.metrics) == 250


def test_a_server_that_is_not_there_is_said_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracked = Tracked([MlflowTracker(MlflowConfig(uri="http://127.0.0.1:9"))], told := Told())
    tracked.start(a_run(tmp_path))
    tracked.metric(1, "loss", 1.0)
    tracked.finish("finished")
    ((event, fields),) = told.events
    assert event == "a tracker failed; the run goes on without it"
    assert fields["tracker"] == "MLflow"
    assert told.metrics == [(1, "loss", 1.0)]
