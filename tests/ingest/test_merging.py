from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.events import EVENTS, IDENTITIES, LANDED, USERS
from endcap.contracts.reporting import Silent
from endcap.engines import duckdb
from endcap.ingest import build, derived
from endcap.ingest.identity import read_pairs
from endcap.ingest.merging import MergeResult, merge_users
from endcap.ingest.quality import IngestSettings
from endcap.workspace import manifests, tables
from endcap.workspace.drafts import Draft
from endcap.workspace.layout import Workspace
from tests.ingest.landed_rows import landed

SETTINGS = IngestSettings()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two visits of a guest on the first and the third day, and a user on the second; not to be changed: take `workspace`."""
    workspace = Workspace.init(tmp_path_factory.mktemp("merging") / "shop")
    rows = landed((0, "g", None), (1, "u", None), (2, "g", None), (2, "other", None))
    draft = Draft(workspace)
    draft.write(LANDED, rows)
    with duckdb.session(workspace) as connection:
        build.build_dates(connection, draft, draft.partition_rows(LANDED), SETTINGS, lambda *_: None)
        derived.derive(connection, draft)
    tables.publish_dataset(workspace, tables.Dataset("test", "r", draft.versions, build.build_digest(SETTINGS)))
    return workspace


@pytest.fixture
def workspace(built: Workspace, copy_of: Callable[[Workspace], Workspace]) -> Workspace:
    """The same, the test's own."""
    return copy_of(built)


def give(workspace: Workspace, tmp_path: Path, *lines: str) -> MergeResult:
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(["guest_id,user_id", *lines]) + "\n")
    return merge_users(workspace, read_pairs(path), SETTINGS, Silent())


def users_of_events(workspace: Workspace) -> list[str]:
    found: list[str] = tables.read_table(workspace, EVENTS)["user_id"].to_pylist()
    return found


def test_events_of_a_guest_become_the_users(workspace: Workspace, tmp_path: Path) -> None:
    files = {path for path in tables.table_files(workspace, EVENTS) if "1970-01-02" in path}
    done = give(workspace, tmp_path, "g,u", "nobody,x")
    assert (done.num_merged, done.num_changed) == (2, 2)
    assert done.dates == ("1970-01-01", "1970-01-03")
    assert users_of_events(workspace) == ["u", "u", "u", "other"]
    assert tables.read_table(workspace, USERS)["user_id"].to_pylist() == ["other", "u"]
    # The date without rows of the guest was not touched.
    assert files <= set(tables.table_files(workspace, EVENTS))
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    assert manifests.read_manifest(workspace, dataset.run_id).data_versions == dataset.versions


def test_the_same_pairs_again_change_nothing(workspace: Workspace, tmp_path: Path) -> None:
    give(workspace, tmp_path, "g,u")
    before = tables.current_dataset(workspace)
    done = give(workspace, tmp_path, "g,u")
    assert (done.num_changed, done.dates) == (0, ())
    assert tables.current_dataset(workspace) == before
    assert len(list(workspace.runs.iterdir())) == 1


def test_a_later_word_counts_and_can_take_a_merge_back(workspace: Workspace, tmp_path: Path) -> None:
    give(workspace, tmp_path, "g,u")
    give(workspace, tmp_path, "g,other")
    assert users_of_events(workspace) == ["other", "u", "other", "other"]
    done = give(workspace, tmp_path, "g,g")
    assert done.dates == ("1970-01-01", "1970-01-03")
    assert users_of_events(workspace) == ["g", "u", "g", "other"]
    assert tables.read_table(workspace, IDENTITIES).num_rows == 0


def test_dates_are_built_with_the_settings_in_force(workspace: Workspace, tmp_path: Path) -> None:
    before = tables.current_dataset(workspace)
    assert before is not None
    strict = IngestSettings(max_events_per_user_per_day=0)
    chosen = msgspec.structs.replace(before, build=build.build_digest(strict), settings=strict.built_with)
    tables.publish_dataset(workspace, chosen)
    give(workspace, tmp_path, "g,u")
    # Everybody is a bot; the date that wasn't built again has its events.
    assert users_of_events(workspace) == ["u"]
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    assert (dataset.build, dataset.settings) == (chosen.build, chosen.settings)


def test_before_the_first_ingest_nobody_can_be_merged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no data yet"):
        give(Workspace.init(tmp_path), tmp_path, "g,u")
