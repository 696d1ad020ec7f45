"""Which versions a policy asks for, and which one a request means."""

from __future__ import annotations

from pathlib import Path

import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.release import MANIFEST
from endcap.serving.errors import RequestError
from endcap.serving.settings import All, Latest, ModelSettings, Specific
from endcap.serving.sources import OneRelease, source_of
from endcap.serving.versions import Loaded, Models, ServedModel, State, Version, chosen


def model_with(*available: int, wanted: tuple[int, ...] = ()) -> ServedModel:
    model = ServedModel(ModelSettings("m", OneRelease(Path("1"))))
    loaded = Loaded(None, None)  # type: ignore[arg-type]  # nothing is asked of it
    model.versions = {number: Version(number, State.AVAILABLE, loaded) for number in available}
    model.wanted = frozenset(wanted)
    return model


def test_policies_choose_among_what_there_is() -> None:
    there = [1, 2, 3, 10]
    assert chosen(Latest(), there) == {10}
    assert chosen(Latest(2), there) == {3, 10}
    assert chosen(All(), there) == {1, 2, 3, 10}
    assert chosen(Specific((2, 7)), there) == {2}
    assert chosen(Latest(), []) == frozenset()


def test_the_newest_that_the_policy_wants_answers() -> None:
    assert model_with(1, 2, 3, wanted=(2,)).find().number == 2  # 3 is there for a label alone
    assert model_with(1, 2, wanted=(1, 2)).find().number == 2
    assert model_with(1, wanted=(2,)).find().number == 1  # 2 could not be loaded
    with pytest.raises(RequestError, match="No version of m is loaded") as raised:
        model_with().find()
    assert raised.value.status == 503


def test_versions_and_labels_that_are_not_here() -> None:
    model = model_with(1, 2, wanted=(2,))
    model.labels = {"stable": 1}
    models = Models([model])
    assert models.find("m", label="stable").number == 1
    assert models.find("m", version=2).number == 2
    model.versions[2].state = State.UNLOADING
    for asked, message in (
        ({"version": 2}, "has no version 2 here; it has: 1"),
        ({"label": "canary"}, "has no label 'canary' here; labels: stable"),
    ):
        with pytest.raises(RequestError, match=message) as raised:
            models.find("m", **asked)  # type: ignore[arg-type]
        assert raised.value.status == 404
    with pytest.raises(RequestError, match=r"There is no model 'x' here\. This server has: m"):
        models.find("x")


def test_only_what_ended_last_is_remembered() -> None:
    model = model_with()
    model.versions = {number: Version(number, State.END) for number in range(40)}
    model.versions[99] = Version(99, State.AVAILABLE)
    model.tidy()
    assert sorted(model.versions) == [*range(24, 40), 99]


@pytest.mark.parametrize("name", ["007", "1a", "v1", ".tmp", "1.5", "-1"])
def test_other_folders_are_no_versions(tmp_path: Path, name: str) -> None:
    for folder in (name, "3", "12", "20"):
        (tmp_path / folder).mkdir()
    for folder in (name, "3", "12"):
        (tmp_path / folder / MANIFEST).write_text("{}")
    assert source_of(tmp_path).versions() == [3, 12]  # 20 is still being copied: its manifest comes last


def test_nothing_to_serve(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    with pytest.raises(InputError, match=r"is no release: it has no manifest\.json, and no folder below"):
        source_of(tmp_path)
    with pytest.raises(InputError, match="it does not exist"):
        source_of(tmp_path / "2")
