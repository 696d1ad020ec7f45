"""Feature tables are built once for each version of data and settings, and never half."""

import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Silent
from endcap.features import dataset
from endcap.flows.features import build_features
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import RUN_MANIFEST, Run, read_manifest

TABLES = ["baskets", "eval", "products", "purchases", "snapshot", "test"]


def folders(path):
    return sorted(entry.name for entry in path.iterdir())


def test_built_once_and_found_again(ingested_shop, copy_of, configured, recorder):
    workspace = copy_of(ingested_shop)
    built = build_features(workspace, configured(), recorder)
    assert folders(built.folder) == sorted([*(f"{name}.parquet" for name in TABLES), RUN_MANIFEST])
    manifest = read_manifest(workspace, next(name for name in folders(workspace.runs) if name.startswith("features")))
    assert manifest.data_versions.keys() >= {"events", "items", "users"}
    assert manifest.metrics["num_test"] == built.split.num_test
    assert [event for event, _ in recorder.events] == ["features built"]
    before = {path: path.stat().st_mtime_ns for path in workspace.path.rglob("*")}

    again = build_features(workspace, configured("seed=99", "training.num_epochs=1"), Silent())
    assert again == built
    assert {path: path.stat().st_mtime_ns for path in workspace.path.rglob("*")} == before


def test_other_settings_have_other_tables_beside(ingested_shop, copy_of, configured):
    workspace = copy_of(ingested_shop)
    first = build_features(workspace, configured(), Silent())
    content = (first.folder / "test.parquet").read_bytes()
    second = build_features(workspace, configured("split.test_fraction=0.2"), Silent())
    assert second.folder != first.folder
    assert second.split.test_start_us < first.split.test_start_us
    assert (first.folder / "test.parquet").read_bytes() == content
    assert build_features(workspace, configured(), Silent()) == first


def test_two_workspaces_build_equal_tables(ingested_shop, copy_of, configured, trained_shop):
    workspace = copy_of(ingested_shop)
    built = build_features(workspace, configured(), Silent())
    theirs = build_features(trained_shop.workspace, configured(), Silent())
    assert built.split == theirs.split
    for name in TABLES:
        mine, other = (pq.read_table(tables.folder / f"{name}.parquet") for tables in (built, theirs))
        assert mine.equals(other), name


def test_a_build_that_dies_halfway_leaves_nothing_and_the_next_one_is_whole(
    ingested_shop, copy_of, configured, monkeypatch
):
    workspace = copy_of(ingested_shop)
    written = []
    write = dataset._write

    def dies(table, path):
        if len(written) == 3:
            raise OSError("disk full")
        written.append(path.name)
        write(table, path)

    with monkeypatch.context() as patched:
        patched.setattr(dataset, "_write", dies)
        with pytest.raises(OSError, match="disk full"):
            build_features(workspace, configured(), Silent())
    assert folders(workspace.features) == []
    assert not [name for name in folders(workspace.runs) if name.startswith("features")]

    # Killed once more, after the tables came into place and before they were entered as done.
    with monkeypatch.context() as patched:
        patched.setattr(Run, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_features(workspace, configured(), Silent())
    (left,) = folders(workspace.features)
    (workspace.features / left / "test.parquet").write_bytes(b"half")
    built = build_features(workspace, configured(), Silent())
    assert built.folder.name == left
    assert built.table("test").num_rows > 0


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_a_workspace_without_data_is_told_how_to_get_some(tmp_path, configured):
    with pytest.raises(InputError, match=r"holds no data yet. Fill it with: endcap ingest"):
        build_features(Workspace.init(tmp_path / "empty"), configured(), Silent())


def test_a_split_that_does_not_fit_writes_nothing(ingested_shop, copy_of, configured):
    workspace = copy_of(ingested_shop)
    with pytest.raises(InputError, match="leaves a period empty"):
        build_features(workspace, configured("split.test_fraction=0.000001", "split.eval_fraction=0.000001"), Silent())
    assert folders(workspace.features) == []
