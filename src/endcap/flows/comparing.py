"""Runs, releases or files of recommendations in, the comparison of what they recommend out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from endcap.contracts.errors import InputError
from endcap.contracts.release import MANIFEST
from endcap.evaluation.assess import Files, assess, slice_column
from endcap.evaluation.compare import ACTIVITY_SLICES
from endcap.evaluation.customers import Counting
from endcap.evaluation.files import read_file
from endcap.evaluation.kept import IS_NEW, NUM_EARLIER_BASKETS, has_kept, read_kept
from endcap.evaluation.lists import ListRows, TruthRows, read_lists, read_truth
from endcap.evaluation.runs import Settings, compare_lists
from endcap.evaluation.runs_page import Section
from endcap.evaluation.slices import SliceColumn, slice_by_count
from endcap.evaluation.surroundings import read_catalog
from endcap.releases.bundle import open_release
from endcap.workspace.layout import MARKER, Workspace

_EARLIER_BASKETS = "earlier baskets"
_TABLE_SUFFIXES = (".parquet", ".csv", ".csv.gz")


@dataclass(frozen=True)
class Source:
    """Where one system's recommendations are: the folder of a run that kept its rankings, or a file."""

    name: str
    path: Path
    is_run: bool


def compare_runs(
    given: Sequence[str],
    workspace_path: Path,
    *,
    truth: Path | None = None,
    items: Path | None = None,
    slices: Sequence[str] = (),
    settings: Settings | None = None,
) -> list[Section]:
    """Compare runs (ids, release folders or files, each perhaps as NAME=RUN); the first is the reference.

    `items` is the catalog: its columns can be sliced by, and coverage and diversity are measured too. Runs bring their own
    truth, under both countings. Files need `truth`, or a run beside them whose truth then serves:
    their customers are matched under the workspace's pseudonyms. Raises InputError when a run can't be found, kept no
    rankings, or runs were judged on different customers and purchases.
    """
    sources = [find_source(text, workspace_path) for text in given]
    names = [source.name for source in sources]
    if len(sources) < 2 or len(set(names)) < len(names):
        raise InputError(
            f"Runs to compare: {', '.join(names)}; expected two or more with distinct names. Give names as NAME=RUN."
        )
    runs = [source for source in sources if source.is_run]
    if truth is not None:
        if runs:
            raise InputError(
                f"--truth goes with files alone: {runs[0].name} is a run, which has its own truth under pseudonyms. Leave "
                "--truth out, or compare files with files."
            )
        files = Files({source.name: source.path for source in sources}, truth, items)
        return [Section("", assess(files, settings=settings, slices=slices).comparison)]
    if not runs:
        raise InputError(
            "Files of recommendations were given, and nothing to hold them against; give --truth FILE, or a run beside them."
        )
    workspace = Workspace.open(workspace_path)
    catalog = read_file(items, "the products") if items else None
    return [_section(counting, sources, workspace, catalog, slices, settings) for counting in Counting]


def find_source(text: str, workspace_path: Path) -> Source:
    """The run, release or file that `text` names. Raises InputError when there is none, or it kept no rankings."""
    label, _, rest = text.partition("=")
    if not rest or Path(text).exists():
        label, rest = "", text
    path = Path(rest)
    if (path / MANIFEST).is_file() and not has_kept(path):
        return _of_release(label, path, workspace_path)
    if path.is_dir() and has_kept(path):
        return Source(label or path.name, path, is_run=True)
    if path.exists():
        return Source(label or path.name.removesuffix(".gz").removesuffix(".csv").removesuffix(".parquet"), path, False)
    if path.name.lower().endswith(_TABLE_SUFFIXES):
        raise InputError(
            f"{path} does not exist. Give a file of recommendations, a release's folder or the id of a run."
        )
    if not (workspace_path / MARKER).is_file():
        raise InputError(
            f"{rest} is no file, and {workspace_path} is no workspace that could hold a run of that name. "
            "Name the workspace: --workspace DIR."
        )
    folder = Workspace.open(workspace_path).runs / path.name
    if path.name != rest or not folder.is_dir():
        raise InputError(
            f"{rest} is no file, no release and no run below {folder.parent}. Run ids are the names of the folders there."
        )
    return _of_run(label or rest, folder)


def _of_release(label: str, path: Path, workspace_path: Path) -> Source:
    manifest = open_release(path).manifest
    if manifest.retrieval is None:
        raise InputError(f"{label or path} scores pairs and recommends nothing that could be compared.")
    run_id = manifest.lineage.run_id
    home = path.resolve().parents[2] if len(path.resolve().parents) > 2 else workspace_path
    if not (home / MARKER).is_file():
        home = workspace_path
    return _of_run(label or f"{path.resolve().parent.name}/{path.resolve().name}", Workspace.open(home).runs / run_id)


def _of_run(name: str, folder: Path) -> Source:
    if not has_kept(folder):
        raise InputError(
            f"{name}: {folder} holds no rankings to compare. Evaluate its release again (endcap evaluate RELEASE): that run "
            "keeps them."
        )
    return Source(name, folder, is_run=True)


def _section(
    counting: Counting,
    sources: Sequence[Source],
    workspace: Workspace,
    catalog: pa.Table | None,
    slices: Sequence[str],
    settings: Settings | None,
) -> Section:
    kept = {source.name: read_kept(source.path, counting) for source in sources if source.is_run}
    truth_table = _one_truth({name: truth for name, (_, truth) in kept.items()})
    truth = read_truth(truth_table)
    systems = [
        read_lists(kept[source.name][0], source.name, source.name)
        if source.is_run
        else _under_pseudonyms(read_lists(read_file(source.path, source.name), source.name, source.name), workspace)
        for source in sources
    ]
    columns = [slice_column(name, truth_table, truth, catalog, None) for name in slices] + _own_slices(
        truth_table, truth, counting
    )
    compared = compare_lists(
        systems,
        truth,
        settings=settings,
        slices=columns,
        catalog=read_catalog(catalog) if catalog is not None else None,
    )
    return Section(counting.label[0].upper() + counting.label[1:], compared)


def _one_truth(truths: Mapping[str, pa.Table]) -> pa.Table:
    """The truth that all runs share. Raises InputError when they differ: nothing could be paired then."""
    (first, table), *others = truths.items()
    sorting = [(name, "ascending") for name in table.column_names]
    for name, other in others:
        same = other.num_rows == table.num_rows and other.column_names == table.column_names
        if not same or not other.sort_by(sorting).equals(table.sort_by(sorting)):
            raise InputError(
                f"{first} and {name} were judged on different purchases ({table.num_rows:,} and {other.num_rows:,}), so that "
                "customers can't be paired. Compare runs of the same data and split, or evaluate both releases on one."
            )
    return table


def _under_pseudonyms(lists: ListRows, workspace: Workspace) -> ListRows:
    keys = pa.array([workspace.user_key(user_id) for user_id in lists.users.ids.to_pylist()], pa.string())
    return replace(lists, users=replace(lists.users, ids=keys))


def _own_slices(table: pa.Table, truth: TruthRows, counting: Counting) -> list[SliceColumn]:
    baskets = np.asarray(table[NUM_EARLIER_BASKETS].to_numpy())[truth.parents]
    columns = [slice_by_count(_EARLIER_BASKETS, baskets, ACTIVITY_SLICES)]
    if counting is Counting.ALL_PURCHASES:
        is_new = np.asarray(table[IS_NEW].to_numpy(zero_copy_only=False)).astype(np.int64)[truth.parents]
        columns.append(SliceColumn("product", ("bought before", "new to the customer"), is_new))
    return columns
