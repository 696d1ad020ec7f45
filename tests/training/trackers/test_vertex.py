"""A run told to Vertex AI Experiments by Google's own client, over gRPC, to a service made from that client's messages."""

import google.auth
import grpc
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.aiplatform_v1.services.metadata_service.transports import MetadataServiceGrpcTransport
from google.cloud.aiplatform_v1.services.tensorboard_service.transports import TensorboardServiceGrpcTransport
from google.cloud.aiplatform_v1.types import Tensorboard

from endcap.contracts.trackers import VertexConfig
from endcap.training.trackers.telling import Tracked
from endcap.training.trackers.vertex import VertexTracker, run_name
from tests.training.trackers.told import RUN_ID, Told, a_model, a_run
from tests.training.trackers.vertex_service import VertexService, serving

PLACE = "projects/acme/locations/europe-west4"
STORE = f"{PLACE}/metadataStores/default"
BOARD = f"{PLACE}/tensorboards/42"
RUN = f"{STORE}/contexts/two-tower-train-20261121t001640z-5c9206"


@pytest.fixture
def service(monkeypatch):
    """The service, to which the client's channels lead; they are as its own but for TLS and credentials."""
    made = VertexService()
    with serving(made) as address:

        def channel(host, **kwargs):
            assert host.startswith("europe-west4-aiplatform.googleapis.com")
            return grpc.insecure_channel(address)

        for transport in (MetadataServiceGrpcTransport, TensorboardServiceGrpcTransport):
            monkeypatch.setattr(transport, "create_channel", staticmethod(channel))
        monkeypatch.setattr(google.auth, "default", lambda *_, **__: (AnonymousCredentials(), "acme"))
        yield made


def config(**more):
    return VertexConfig(experiment="two-tower", project="acme", region="europe-west4", **more)


def tell(tracker, folder, losses=(0.9, 0.7), outcome="finished", model=None):
    tracked = Tracked([tracker], told := Told())
    tracked.start(a_run(folder))
    for epoch, loss in enumerate(losses, start=1):
        tracked.metric(epoch, "loss", loss)
    tracked.metric(0, "loss", 0.25)
    if model is not None:
        tracked.model(model)
    tracked.finish(outcome, timeout_s=60)
    return told


def test_parameters_facts_newest_metrics_and_state(service, tmp_path):
    assert tell(VertexTracker(config()), tmp_path).events == []
    run = service.there[RUN]
    assert run.schema_title == "system.ExperimentRun"
    assert RUN in service.members[f"{STORE}/contexts/two-tower"]
    assert service.there[f"{STORE}/contexts/two-tower"].schema_title == "system.Experiment"
    parameters, metrics = dict(run.metadata["_params"]), dict(run.metadata["_metrics"])
    assert parameters["training.learning_rate"] == 0.003
    assert parameters["git_sha"] == a_run(tmp_path).git_sha
    assert parameters["data_version.events"] == 5
    assert metrics == {"loss": 0.7, "test/loss": 0.25}
    assert run.metadata["_state"] == "COMPLETE"


def test_each_epoch_stands_in_the_tensorboard(service, tmp_path):
    service.there[BOARD] = Tensorboard(name=BOARD)
    assert tell(VertexTracker(config(tensorboard=BOARD)), tmp_path).events == []
    assert [(step, round(value, 6)) for step, value in service.scalars["loss"]] == [(1, 0.9), (2, 0.7)]


def test_a_release_is_an_artifact_of_the_run(service, tmp_path):
    model = a_model(tmp_path)
    assert tell(VertexTracker(config(log_model=True)), tmp_path, model=model).events == []
    (execution,) = (name for name in service.members[RUN] if "/executions/" in name)
    (artifact,) = service.members[execution]
    found = service.there[artifact]
    assert (found.schema_title, found.uri, found.display_name) == ("system.Model", model.uri, "recommender")
    assert found.metadata["digest"] == model.digest
    assert service.there[execution].state.name == "COMPLETE"


def test_a_run_gone_on_with_is_the_same_run_there(service, tmp_path):
    assert tell(VertexTracker(config()), tmp_path, losses=(0.9,), outcome="stopped").events == []
    assert service.there[RUN].metadata["_state"] == "CANCELLED"
    assert tell(VertexTracker(config()), tmp_path, losses=(0.9, 0.7, 0.6)).events == []
    assert service.there[RUN].metadata["_state"] == "COMPLETE"
    assert service.there[RUN].metadata["_metrics"]["loss"] == 0.6
    assert [name for name in service.there if "train-" in name] == [RUN]


def test_a_service_that_refuses_is_said_once(service, tmp_path):
    service.is_down = True
    ((event, fields),) = tell(VertexTracker(config()), tmp_path).events
    assert event == "a tracker failed; the run goes on without it"
    assert fields["tracker"] == "Vertex AI Experiments"
    assert "the API is switched off" in fields["error"]


def test_without_a_place_it_says_what_is_missing(tmp_path):
    ((_, fields),) = tell(VertexTracker(VertexConfig(experiment="two-tower")), tmp_path).events
    assert "trackers.vertex.project" in fields["error"]


def test_names_of_runs_are_as_that_service_writes_them():
    assert run_name(RUN_ID, "two-tower") == "train-20261121t001640z-5c9206"
    assert run_name("Run_1.b", "x" * 120) == "run-1-b"
    assert run_name(RUN_ID, "x" * 110) == "21t001640z-5c9206"  # with the experiment's, 128 in all
