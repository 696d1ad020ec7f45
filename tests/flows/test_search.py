"""A search over a made-up training whose best settings are known."""

import json
import math

import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Silent
from endcap.flows import search as flow
from endcap.workspace.layout import Workspace
from endcap.workspace.search_space import parse_search_space

SPACE = ["training.learning_rate=tag(log,interval(1e-4,1e-1))", "training.batch_size=choice(64,128)", "seed=3"]


class StoppedError(Exception):
    """Stands for a process that goes away."""


@pytest.fixture
def trained(monkeypatch):
    """Settings that were trained with, in their order; best at a learning rate of 0.01 and batches of 128."""
    seen = []

    def tune(tables, configuration, report):
        settings = configuration.training
        seen.append((settings.learning_rate, settings.batch_size))
        for epoch in (1, 2, 3):
            far = abs(math.log10(settings.learning_rate) + 2) + (settings.batch_size == 64) * 0.1
            report.metric(epoch, "mean/ndcg@10", 9.0)
            report.metric(epoch, "chosen_by", (1 - far / 4) * epoch / 3)

    monkeypatch.setattr(flow.fitting, "tune", tune)
    monkeypatch.setattr(flow, "build_features", lambda *_: None)
    monkeypatch.setattr(flow, "check_before_training", lambda *_: None)
    return seen


def run(path, num_trials, name="a", overrides=SPACE):
    workspace = Workspace.init(path)
    return flow.search(workspace, parse_search_space(overrides), num_trials=num_trials, name=name, report=Silent())


def test_it_comes_near_the_best_settings_and_cuts_bad_ones(tmp_path, trained):
    found = run(tmp_path, 25)
    assert len(found.trials) == 25
    assert found.best.settings["training.batch_size"] == 128
    assert 0.004 < found.best.settings["training.learning_rate"] < 0.025
    assert found.overrides[0] == "seed=3"
    states = {trial.state for trial in found.trials}
    assert states == {"complete", "pruned"}
    assert all((trial.num_epochs == 3) == (trial.state == "complete") for trial in found.trials)
    kept = json.loads((found.folder / flow.TRIALS).read_text())
    assert kept["best"] == found.best.number
    assert kept["trials"][found.best.number]["settings"] == found.best.settings


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, trained, monkeypatch):
    whole = run(tmp_path / "whole", 8)
    tried = list(trained)
    trained.clear()
    tune = flow.fitting.tune

    def stopping(*arguments):
        if len(trained) == 5:
            raise StoppedError
        tune(*arguments)

    monkeypatch.setattr(flow.fitting, "tune", stopping)
    with pytest.raises(StoppedError):
        run(tmp_path / "cut", 8)
    monkeypatch.setattr(flow.fitting, "tune", tune)
    resumed = run(tmp_path / "cut", 8)
    assert trained == tried
    assert resumed.trials == whole.trials
    assert resumed.overrides == whole.overrides
    run(tmp_path / "cut", 8)
    assert trained == tried


def test_settings_that_can_not_be_trained_with_are_passed_over(tmp_path, trained, monkeypatch):
    tune = flow.fitting.tune

    def failing(tables, configuration, report):
        if configuration.training.batch_size == 64:
            raise InputError("The loss is nan.")
        tune(tables, configuration, report)

    monkeypatch.setattr(flow.fitting, "tune", failing)
    found = run(tmp_path, 12)
    assert found.best.settings["training.batch_size"] == 128
    failed = [trial for trial in found.trials if trial.state == "fail"]
    assert failed
    assert {(trial.error, trial.settings["training.batch_size"]) for trial in failed} == {("The loss is nan.", 64)}


def test_when_nothing_can_be_trained_with_it_says_why(tmp_path, trained, monkeypatch):
    def failing(*_):
        raise InputError("The loss is nan.")

    monkeypatch.setattr(flow.fitting, "tune", failing)
    with pytest.raises(InputError, match=r"The loss is nan\."):
        run(tmp_path, 12)


def test_another_search_of_the_same_name_is_refused(tmp_path, trained):
    run(tmp_path, 1)
    with pytest.raises(InputError, match="Give this one another --name"):
        run(tmp_path, 1, overrides=[*SPACE[:2], "seed=4"])
    run(tmp_path, 1, name="b", overrides=[*SPACE[:2], "seed=4"])


def test_keys_and_values_are_checked(tmp_path, trained):
    with pytest.raises(InputError, match="batch_siz"):
        run(tmp_path, 1, overrides=["training.batch_siz=choice(1,2)"])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("two_tower", "ndcg@10, mean of both counts, on the eval period"),
        ("ranking", "minus rmse, on the eval period"),
        ("multitask", "ndcg@10, mean of both counts, minus rmse, by the tasks' weights, on the eval period"),
    ],
)
def test_a_search_names_what_it_looks_for(configured, model, said):
    assert flow._searched_for(configured(f"model={model}", "features=online_retail_spend")) == said
