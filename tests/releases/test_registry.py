"""Registrations, aliases moved by several at once, and a history that only grows."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import msgspec
import pytest

from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.release import REGISTRY
from endcap.releases.ancestry import describe, resolve
from endcap.releases.registry import AliasConflictError, Registry
from endcap.workspace.datasets import Dataset, publish_dataset
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import PULL, Run, describe_input
from tests.releases.sealed import sealed


@pytest.fixture
def workspace(tmp_path):
    return Workspace.init(tmp_path / "shop")


@pytest.fixture
def registry(workspace):
    """With the versions 1 to 3 of recommender, the second of them not blessed."""
    registry = Registry.of(workspace)
    for version, status in ((1, "BLESSED"), (2, "NOT_BLESSED"), (3, "BLESSED")):
        registry.register(sealed(workspace, version, status=status))
    return registry


def test_a_release_is_registered_blessed_or_not_with_its_labels(registry):
    first, second, third = registry.registrations()
    assert [(one.name, one.version, one.status) for one in (first, second, third)] == [
        ("recommender", 1, "completed"), ("recommender", 2, "not_blessed"), ("recommender", 3, "completed")
    ]  # fmt: skip
    assert second.labels == {
        "training_run_id": "train-2", "model_endpoint_id": "recommender", "model_type": "retrieval",
        "is_blessed": "false", "signatures": "serving_default", "recall_at_100": "0.500000", "ndcg_at_10": "0.250000",
    }  # fmt: skip
    assert registry.registrations("other") == []


def test_registering_again_changes_nothing_and_another_release_is_refused(workspace):
    registry = Registry.of(workspace)
    release = sealed(workspace, 10)
    first = registry.register(release)
    assert registry.register(release) == first
    (workspace.releases / "recommender" / "10").rename(workspace.path / "gone")
    with pytest.raises(InputError, match="recommender/10 is registered with the digest"):
        registry.register(sealed(workspace, 10, content=b"other"))
    registry.register(sealed(workspace, 9))
    assert [one.version for one in registry.registrations("recommender")] == [9, 10]


def test_a_folder_that_is_no_version_is_refused(workspace):
    release = sealed(workspace, 1)
    release.path.rename(release.path.with_name("best"))
    with pytest.raises(InputError, match="expected a number"):
        Registry.of(workspace).register(type(release)(release.path.with_name("best"), release.manifest, release.digest))


def test_an_alias_moves_and_its_history_says_who_and_why(registry):
    assert registry.alias("recommender", "champion") is None
    registry.move_alias("recommender", "champion", 1, moved_by="ann", reason="first", expected_generation=0)
    registry.move_alias("recommender", "shadow", 2, moved_by="bob")
    registry.move_alias("recommender", "champion", 3, moved_by="bob", expected_generation=1)
    assert {alias: move.version for alias, move in registry.aliases("recommender").items()} == {
        "champion": 3, "shadow": 2
    }  # fmt: skip
    registry.move_alias("recommender", "champion", None, moved_by="ann", reason="rolled back")
    assert list(registry.aliases("recommender")) == ["shadow"]
    told = [
        (move.generation, move.previous_version, move.version, move.moved_by, move.reason)
        for move in registry.history("recommender", "champion")
    ]
    assert told == [(1, None, 1, "ann", "first"), (2, 1, 3, "bob", ""), (3, 3, None, "ann", "rolled back")]
    assert len(registry.history("recommender")) == 4
    assert registry.history("recommender", "champion")[1].digest == registry.find("recommender", 3).digest


def test_who_saw_an_older_state_is_refused_and_told_who_moved_it(registry):
    registry.move_alias("recommender", "champion", 1, moved_by="ann")
    with pytest.raises(
        AliasConflictError, match=r"is at generation 1: ann moved it to recommender/1 .* 0 was expected"
    ):
        registry.move_alias("recommender", "champion", 3, moved_by="bob", expected_generation=0)
    with pytest.raises(AliasConflictError, match="was never set; generation 4 was expected"):
        registry.move_alias("recommender", "shadow", 3, moved_by="bob", expected_generation=4)
    assert registry.alias("recommender", "champion").version == 1


@pytest.mark.parametrize(
    ("name", "alias", "version", "message"),
    [
        ("recommender", "champion", 7, "recommender/7 is not registered; registered versions of recommender: 1, 2, 3"),
        ("recommender", "latest", 1, "Found the alias 'latest'; expected one of champion, challenger, shadow"),
        ("../x", "champion", 1, "Found the name '../x'"),
    ],
)
def test_moves_that_make_no_sense_are_refused(registry, name, alias, version, message):
    with pytest.raises(InputError, match=message):
        registry.move_alias(name, alias, version, moved_by="ann")
    assert registry.history("recommender") == []


def test_of_publishers_who_race_one_wins_and_the_others_hear_of_a_conflict(workspace, registry):
    """Eight threads, ten rounds, each expecting what all of them saw: one winner a round, no move lost or doubled."""
    num_threads, num_rounds = 8, 10
    barrier = Barrier(num_threads)

    def publish(number):
        mine = Registry.of(workspace)
        won = []
        for generation in range(num_rounds):
            barrier.wait()
            try:
                mine.move_alias(
                    "recommender", "champion", 1 + number % 3, moved_by=str(number), expected_generation=generation
                )
                won.append(generation)
            except AliasConflictError:
                pass
            barrier.wait()
        return won

    with ThreadPoolExecutor(num_threads) as pool:
        won = [generation for rounds in pool.map(publish, range(num_threads)) for generation in rounds]
    assert sorted(won) == list(range(num_rounds))
    history = registry.history("recommender", "champion")
    assert [move.generation for move in history] == list(range(1, num_rounds + 1))
    assert [move.previous_version for move in history[1:]] == [move.version for move in history[:-1]]


RACER = """
import sys, time
from pathlib import Path
from endcap.releases.registry import AliasConflictError, Registry
from endcap.workspace.datasets import Dataset, publish_dataset
from endcap.workspace.layout import Workspace
registry = Registry.of(Workspace.open(Path(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()
try:
    registry.move_alias("recommender", "champion", int(sys.argv[2]), moved_by=sys.argv[2], expected_generation=0)
    print("won")
except AliasConflictError:
    print("conflict")
"""


def test_of_two_processes_one_wins(workspace, registry):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, workspace.path, version],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for version in ("1", "3")
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    assert sorted(said) == ["conflict", "won"]
    (move,) = registry.history("recommender", "champion")
    assert move.version == (1, 3)[said.index("won")]


def test_a_damaged_document_is_named(workspace, registry):
    (workspace.releases / REGISTRY / "releases" / "recommender" / "2.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"releases/recommender/2\.json can't be read"):
        registry.registrations()


def test_lineage_goes_from_the_data_by_way_of_features_and_run_to_the_release(workspace, registry):
    table = workspace.features / "abc" / "purchases.parquet"
    table.parent.mkdir()
    table.write_bytes(b"rows")
    Run(workspace, "train", run_id="train-1").finish(inputs=[describe_input(table)])
    registry.move_alias("recommender", "champion", 1, moved_by="ann")
    described = describe(workspace, registry, registry.find("recommender", 1))
    assert described["data_versions"] == {"events": 2}
    assert [(feature["folder"], feature["file"]) for feature in described["features"]] == [("abc", "purchases.parquet")]
    assert described["run"]["run_id"] == "train-1"
    assert (described["aliases"], described["is_here"]) == (["champion"], True)
    assert (
        describe(workspace, registry, registry.find("recommender", 3))["features"] is None
    )  # that run's folder is gone


def test_lineage_reaches_the_version_of_the_data_that_were_ingested(workspace, registry):
    export = workspace.path / "export.csv"
    export.write_bytes(b"rows")
    pulled = Run(workspace, PULL)
    pulled.finish(inputs=[describe_input(export)], configuration={"data_version": "md5:abc"})
    Run(workspace, "ingest", run_id="ingest-1").finish(inputs=[describe_input(export)])
    publish_dataset(workspace, Dataset("files", "ingest-1", {"events": 2}))
    release = registry.find("recommender", 1)
    assert (
        describe(workspace, registry, release)["sources"] is None
    )  # of a release that doesn't say which dataset it had
    lineage = msgspec.structs.replace(release.lineage, dataset_version=1)
    described = describe(workspace, registry, msgspec.structs.replace(release, lineage=lineage))
    assert described["dataset_version"] == 1
    (source,) = described["sources"]
    assert (source["file"], source["data_version"]) == ("export.csv", "md5:abc")


def test_a_release_is_found_by_alias_by_version_and_by_path(workspace, registry):
    registry.move_alias("recommender", "champion", 3, moved_by="ann")
    folder = workspace.releases / "recommender" / "3"
    for said in ("recommender@champion", "@champion", "recommender/3", str(folder)):
        assert resolve(workspace, said) == folder
    with pytest.raises(InputError, match=r"shadow of recommender names no release. Set it: endcap releases alias"):
        resolve(workspace, "recommender@shadow")
