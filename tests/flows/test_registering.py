"""A training run registers what it seals, and judges beside the champion where there is one that can be compared."""

from unittest.mock import Mock

import pytest

from endcap.contracts.errors import InputError
from endcap.flows import judging, registering
from endcap.releases.registry import Registry


@pytest.fixture
def judge(monkeypatch):
    """Stands for the judgement; remembers which champion it was asked about."""
    judge = Mock(return_value="judged")
    monkeypatch.setattr(judging, "judge_on_test", judge)
    return judge


def asked(judge):
    return [call.kwargs.get("champion") for call in judge.call_args_list]


def run(workspace, configuration, report):
    return registering.judge_beside_champion(workspace, None, configuration, None, None, [], report)


def test_a_training_run_registers_its_release(trained_shop):
    release = trained_shop.result.release
    (registration,) = Registry.of(trained_shop.workspace).registrations("recommender")
    assert (registration.version, registration.digest) == (1, release.digest)
    assert registration.labels["training_run_id"] == trained_shop.result.run_id
    assert registration.labels["is_blessed"] == str(release.manifest.blessing.status == "BLESSED").lower()
    assert registration.labels["recall_at_100"] == f"{release.manifest.metrics['all_purchases/recall@100']:.6f}"


def test_without_a_champion_there_is_nothing_to_compare_with(trained_shop, configured, judge, recorder):
    assert run(trained_shop.workspace, configured(), recorder) == "judged"
    assert asked(judge) == [None]
    assert recorder.events == []


def test_the_champion_is_handed_to_the_gate(trained_shop, copy_of, configured, judge, recorder):
    workspace = copy_of(trained_shop.workspace)
    Registry.of(workspace).move_alias("recommender", "champion", 1, moved_by="ann")
    run(workspace, configured(), recorder)
    assert [champion.digest for champion in asked(judge)] == [trained_shop.result.release.digest]
    assert recorder.events == []


def test_a_damaged_champion_is_left_out_and_named(trained_shop, copy_of, configured, judge, recorder):
    workspace = copy_of(trained_shop.workspace)
    Registry.of(workspace).move_alias("recommender", "champion", 1, moved_by="ann")
    (workspace.releases / "recommender" / "1" / "query.onnx").write_bytes(b"?")
    run(workspace, configured(), recorder)
    assert asked(judge) == [None]
    ((event, fields),) = recorder.events
    assert event == "the champion can't be compared; judged without it"
    assert "query.onnx is not the file that was released" in fields["error"]


def test_a_champion_that_cannot_be_compared_keeps_nothing_from_being_judged(
    trained_shop, copy_of, configured, judge, recorder
):
    workspace = copy_of(trained_shop.workspace)
    Registry.of(workspace).move_alias("recommender", "champion", 1, moved_by="ann")
    judge.side_effect = [InputError("trained within the test period"), "judged"]
    assert run(workspace, configured(), recorder) == "judged"
    assert [fields["error"] for _, fields in recorder.events] == ["trained within the test period"]
