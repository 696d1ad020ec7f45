"""Numbers of datasets and their log: what ever was in force can be asked for, and nothing else."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from endcap.contracts.errors import ArtifactError, InputError
from endcap.workspace import datasets, pins
from endcap.workspace.atomic import write_json
from endcap.workspace.datasets import Dataset
from endcap.workspace.layout import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.init(tmp_path)


def publish(workspace: Workspace, run_id: str = "r", gap: int = 30, **versions: int) -> int:
    made = datasets.publish_dataset(workspace, Dataset("s", run_id, versions, settings={"gap": gap}, number=77))
    assert datasets.current_dataset(workspace) == made
    return made.number


def numbers(workspace: Workspace) -> list[int]:
    return [one.dataset_version for one in datasets.publications(workspace)]


def test_a_number_counts_changes_of_versions_and_settings(workspace: Workspace) -> None:
    assert (numbers(workspace), datasets.number_of(workspace, {"events": 0})) == ([], 1)
    assert publish(workspace, events=0) == 1
    assert publish(workspace, run_id="another run", events=0) == 1
    assert datasets.number_of(workspace, {"events": 0}) == 1
    assert datasets.number_of(workspace, {"events": 0}, {"gap": 31}) == 2
    assert publish(workspace, gap=31, events=0) == 2
    assert datasets.number_of(workspace, {"events": 1}) == 3
    assert publish(workspace, gap=31, events=1) == 3
    assert publish(workspace, gap=31, events=0) == 4  # what was there before is in force anew
    assert numbers(workspace) == [1, 2, 3, 4]
    assert [one.versions["events"] for one in datasets.publications(workspace)] == [0, 0, 1, 0]
    assert datasets.publication(workspace, 2).settings == {"gap": 31}


def test_what_was_cut_short_before_it_came_into_force_is_not_given(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_but_the_dataset(path: Path, value: object) -> None:
        if path.name == datasets.DATASET:
            raise KeyboardInterrupt
        write_json(path, value)

    def cut_short(**versions: int) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(datasets, "write_json", write_but_the_dataset)
            with pytest.raises(KeyboardInterrupt):
                publish(workspace, **versions)

    cut_short(events=0)
    assert numbers(workspace) == []
    with pytest.raises(InputError, match="no dataset version 1; none was numbered yet"):
        pins.versions_at(workspace, 1)
    first = publish(workspace, events=1)
    assert numbers(workspace) == [first]
    cut_short(events=2)
    assert numbers(workspace) == [first]
    with pytest.raises(InputError, match=f"no dataset version {first + 1}; there are {first} to {first}"):
        pins.versions_at(workspace, first + 1)
    assert pins.versions_at(workspace, "2999-01-01") == {"events": 1}
    assert publish(workspace, events=3) == first + 1
    assert pins.versions_at(workspace, first + 1) == {"events": 3}


def test_moments_are_answered_from_the_log_whoever_published(workspace: Workspace) -> None:
    moments = []
    for version in range(3):
        publish(workspace, run_id="", events=version)  # none of them leaves a manifest, like a compaction
        moments.append(datetime.now(UTC).isoformat())
    assert [pins.versions_at(workspace, at)["events"] for at in moments] == [0, 1, 2]
    with pytest.raises(InputError, match="held no data at 2020-01-01"):
        pins.versions_at(workspace, "2020-01-01")


def test_what_came_before_the_log_is_found_in_manifests(workspace: Workspace) -> None:
    for name, ended_at, version in (("ingest-1", "2026-01-01", 0), ("ingest-2", "2026-02-01", 1)):
        versions = {"events": version}
        manifest = {"ended_at": f"{ended_at}T00:00:00+00:00", "data_versions": versions}
        write_json(workspace.runs / name / "manifest.json", manifest)
        write_json(workspace.events / datasets.DATASET, {"source": "s", "run_id": name, "versions": versions})
    since = datetime(2026, 2, 1, tzinfo=UTC).timestamp()
    os.utime(workspace.events / datasets.DATASET, (since, since))
    assert datasets.number_in_force(workspace) == 0
    assert pins.versions_at(workspace, "2026-01-15") == {"events": 0}
    assert pins.versions_at(workspace, "2026-02-15") == {"events": 1}
    assert publish(workspace, events=7) == 2
    # What was in force when counting began is the first.
    assert (pins.versions_at(workspace, 1), pins.versions_at(workspace, 2)) == ({"events": 1}, {"events": 7})
    assert pins.versions_at(workspace, "2026-01-15") == {"events": 0}
    assert pins.versions_at(workspace, "2026-02-15") == {"events": 1}
    assert pins.versions_at(workspace, "2999-01-01") == {"events": 7}


def test_a_dataset_of_before_is_numbered_when_it_is_published_again(workspace: Workspace) -> None:
    write_json(workspace.events / datasets.DATASET, {"source": "s", "run_id": "r", "versions": {"events": 3}})
    dataset = datasets.current_dataset(workspace)
    assert dataset is not None
    assert datasets.publish_dataset(workspace, dataset).number == 1
    assert numbers(workspace) == [1]


def test_a_lost_dataset_file_never_makes_a_number_mean_two_things(workspace: Workspace) -> None:
    for version in range(3):
        publish(workspace, events=version)
    (workspace.events / datasets.DATASET).unlink()
    assert publish(workspace, events=9) == 4
    assert numbers(workspace) == [4]


def test_a_damaged_entry_is_named(workspace: Workspace) -> None:
    publish(workspace, events=0)
    publish(workspace, events=1)
    path = workspace.events / datasets.LOG / "00000001.json"
    path.write_text("{")
    with pytest.raises(ArtifactError, match=r"00000001\.json can't be read"):
        datasets.publications(workspace)
    path.unlink()
    assert numbers(workspace) == [2]
    assert msgspec.json.decode((workspace.events / datasets.DATASET).read_bytes())["number"] == 2
