"""The mirror is told what happened; when it fails, that is said once and nothing else fails."""

import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest

from endcap.contracts.reporting import Silent
from endcap.releases.mirror import Mirrored, MlflowMirror, mirror_for
from endcap.releases.registry import Registry
from endcap.workspace.layout import Workspace
from tests.releases.sealed import sealed


class FakeClient:
    """What of MLflow's client is used, in memory. Its versions count from 1 whatever ours are."""

    models: ClassVar[dict] = {}
    made_with: ClassVar[dict] = {}

    def __init__(self, **settings):
        type(self).made_with = settings

    def search_registered_models(self, *, filter_string):
        return [name for name in self.models if filter_string == f"name='{name}'"]

    def create_registered_model(self, name):
        assert name not in self.models
        self.models[name] = SimpleNamespace(versions=[], aliases={})

    def search_model_versions(self, filter_string):
        return [found for name, model in self.models.items() if name in filter_string for found in model.versions]

    def create_model_version(self, name, *, source, tags):
        versions = self.models[name].versions
        versions.append(SimpleNamespace(version=len(versions) + 1, source=source, tags=tags))

    def set_registered_model_alias(self, name, alias, version):
        self.models[name].aliases[alias] = version

    def delete_registered_model_alias(self, name, alias):
        del self.models[name].aliases[alias]


class Told(Silent):
    def __init__(self):
        self.events = []

    def event(self, event, **fields):
        self.events.append((event, fields))


class Down:
    def __init__(self):
        self.num_calls = 0

    def register(self, registration):
        self.num_calls += 1
        raise ConnectionError("registry.example is down")

    move_alias = register


@pytest.fixture
def mlflow(monkeypatch):
    monkeypatch.setattr(FakeClient, "models", {})
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=FakeClient))
    return FakeClient


@pytest.fixture
def workspace(tmp_path):
    return Workspace.init(tmp_path / "shop")


def test_mlflow_gets_versions_with_labels_and_aliases(mlflow, workspace):
    registry, mirror, told = Registry.of(workspace), MlflowMirror("http://registry.example"), Told()
    mirrored = Mirrored(mirror, told)
    registration = registry.register(sealed(workspace, 4, status="NOT_BLESSED"))
    mirrored.register(registration)
    mirrored.register(registration)
    (version,) = mlflow.models["recommender"].versions
    assert version.tags["endcap_version"] == "4"
    assert version.tags["is_blessed"] == "false"
    assert version.tags["status"] == "not_blessed"
    assert version.tags["training_run_id"] == "train-4"
    mirrored.move_alias(registry.move_alias("recommender", "champion", 4, moved_by="ann"))
    assert mlflow.models["recommender"].aliases == {"champion": "1"}  # their number of our version 4
    mirrored.move_alias(registry.move_alias("recommender", "champion", None, moved_by="ann"))
    assert mlflow.models["recommender"].aliases == {}
    assert mlflow.made_with == {"tracking_uri": "http://registry.example", "registry_uri": "http://registry.example"}
    assert told.events == []


def test_an_outage_is_said_once_and_fails_nothing(workspace):
    registry, down, told = Registry.of(workspace), Down(), Told()
    mirrored = Mirrored(down, told)
    for version in (1, 2):
        mirrored.register(registry.register(sealed(workspace, version)))
    mirrored.move_alias(registry.move_alias("recommender", "champion", 2, moved_by="ann"))
    assert down.num_calls == 1
    ((event, fields),) = told.events
    assert event.startswith("the registry's mirror failed")
    assert fields == {"error": "ConnectionError: registry.example is down"}
    assert registry.alias("recommender", "champion").version == 2


def test_without_mlflow_installed_it_is_an_outage_too(workspace, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    told = Told()
    Mirrored(mirror_for("http://registry.example"), told).register(
        Registry.of(workspace).register(sealed(workspace, 1))
    )
    assert "ModuleNotFoundError" in told.events[0][1]["error"] or "ImportError" in told.events[0][1]["error"]


def test_nothing_is_mirrored_unless_configured(workspace):
    assert mirror_for(None) is None
    told = Told()
    Mirrored(None, told).register(Registry.of(workspace).register(sealed(workspace, 1)))
    assert told.events == []
