"""A file of labelled rows and the workspace's tables in, a folder of features as of each row's moment out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.configuration import SplitConfig
from endcap.contracts.errors import InputError
from endcap.contracts.events import EVENTS, IMPRESSIONS, ITEM_VERSIONS, ITEMS, USERS
from endcap.contracts.reporting import Reporter
from endcap.engines import duckdb
from endcap.features import default, spine_leaks
from endcap.features.exact import MOMENT_US, QUERY_NUM
from endcap.features.negatives import Kind, bought_before, impression_negatives
from endcap.features.negatives_as_of import CatalogByDay, draw_as_of
from endcap.features.spine import positives, read_spine, with_negatives
from endcap.features.split import PERIOD, split_purchases, with_periods
from endcap.workspace import tables
from endcap.workspace.atomic import publish_folder
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import RUN_MANIFEST, Run, describe_input

NegativeKind = Literal["uniform", "popularity", "in_category", "impressions"]
GROUPS: Final = (*default.DEFAULT_FEATURES, *default.MORE_FEATURES)
SPINE: Final = "spine"
LEAK_CHECK: Final = "leak check"
_STAGE: Final = "features of a spine"
_EVENT_COLUMNS: Final = (c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.TS_US, c.VALUE)
_ASKED: Final = (QUERY_NUM, c.USER_ID, c.ITEM_ID, MOMENT_US)
_MAX_SEQUENCE: Final = 1000
_KINDS: Final[dict[str, Kind]] = {"uniform": "uniform", "popularity": "popular", "in_category": "in_category"}


@dataclass(frozen=True)
class SpineSettings:
    """What to make beside the data."""

    groups: tuple[str, ...] = tuple(group.name for group in default.DEFAULT_FEATURES)
    negatives: NegativeKind | None = None
    num_negatives: int = 4
    seed: int = 0
    """From 0; of the negatives, and of the split where it draws."""
    exclude_bought: bool = False
    """Whether negatives leave out what the user had bought before."""
    split: SplitConfig | None = None
    sequence_length: int = default.SEQUENCE_LENGTH

    def __post_init__(self) -> None:
        """Refuse what can't be made; all problems at once."""
        names = [group.name for group in GROUPS]
        problems = [
            f"there is no group {name!r}; the groups are: {', '.join(names)}"
            for name in self.groups
            if name not in names
        ]
        if not 1 <= self.num_negatives <= 10_000:
            problems.append(f"num-negatives is {self.num_negatives}; expected 1 to 10,000")
        if self.seed < 0:
            problems.append(f"seed is {self.seed}; expected 0 or more")
        if not 1 <= self.sequence_length <= _MAX_SEQUENCE:
            problems.append(f"sequence-length is {self.sequence_length}; expected 1 to {_MAX_SEQUENCE}")
        if problems:
            raise InputError(f"These features can't be made: {'; '.join(problems)}.")


@dataclass(frozen=True)
class SpineResult:
    """What was written: rows and seconds by file, in the order in which they were made."""

    folder: Path
    num_rows: dict[str, int]
    seconds: dict[str, float]
    figures: dict[str, int]


def build_spine_features(
    workspace: Workspace,
    file: Path,
    out: Path,
    settings: SpineSettings,
    report: Reporter,
    *,
    memory_mb: int = duckdb.DEFAULT_MEMORY_MB,
) -> SpineResult:
    """Write `spine.parquet`, a Parquet file for each group and `manifest.json` into `out`, which appears whole or not at all.

    Raises InputError when the file, the settings or the workspace don't fit, ArtifactError when a feature counts what
    happened at or after its moment.
    """
    dataset = tables.current_dataset(workspace)
    if dataset is None:
        raise InputError(f"{workspace.path} holds no data yet. Fill it with: endcap ingest --source files FOLDER")
    run = Run(workspace, "spine")
    asked = read_spine(file)
    steps = [SPINE, *settings.groups, LEAK_CHECK]
    num_rows: dict[str, int] = {}

    @contextmanager
    def step(name: str) -> Iterator[Path]:
        report.progress(_STAGE, steps.index(name), len(steps), name)
        path = folder / f"{name}.parquet"
        with run.stage(name):
            yield path
        if path.is_file():
            num_rows[name] = pq.read_metadata(path).num_rows

    with publish_folder(out) as folder, duckdb.session(workspace, memory_mb=memory_mb) as connection:
        events = duckdb.scan_table(connection, workspace, EVENTS, columns=_EVENT_COLUMNS)
        versions = duckdb.scan_table(connection, workspace, ITEM_VERSIONS)
        with step(SPINE) as path:
            figures = _write_spine(workspace, connection, asked, settings, events, versions, path)
        del asked
        # Nothing else of the file meets the features: its columns may have any names.
        spine = connection.read_parquet(str(path)).select(_ASKED)
        for name in settings.groups:
            with step(name) as path:
                _write_group(connection, path, settings, name, (spine, events, versions))
        with step(LEAK_CHECK):
            _check(connection, folder, settings, events, versions)
        report.progress(_STAGE, len(steps), len(steps))
        manifest = run.finish(
            inputs=[describe_input(file)],
            data_versions=dataset.versions,
            dataset_version=dataset.number,
            configuration=_described(settings),
            metrics=figures | {f"num_rows_{name}": number for name, number in num_rows.items()},
        )
        shutil.copy(manifest, folder / RUN_MANIFEST)
    return SpineResult(out, num_rows, run.timings_s, figures)


def _described(settings: SpineSettings) -> dict[str, Any]:
    split = settings.split.model_dump(mode="json") if settings.split is not None else None
    return {**vars(settings), "groups": list(settings.groups), "split": split}


def _write_spine(
    workspace: Workspace,
    connection: Backend,
    asked: pa.Table,
    settings: SpineSettings,
    events: ir.Table,
    versions: ir.Table,
    path: Path,
) -> dict[str, int]:
    figures = _strangers(workspace, asked)
    if settings.split is not None:
        asked = _with_periods(connection, asked, settings.split)
    if settings.negatives is not None:
        drawn = _draw(workspace, connection, asked, settings, events, versions)
        wanted = positives(asked)
        met = len(pc.unique(drawn[QUERY_NUM]))
        figures |= {"num_negatives": drawn.num_rows, "num_without_negatives": wanted.num_rows - met}
        asked = with_negatives(asked, drawn)
    pq.write_table(asked, path)
    return figures


def _strangers(workspace: Workspace, asked: pa.Table) -> dict[str, int]:
    """Rows, and how many of them name a user or product that no table knows. Raises InputError when all do."""
    figures = {"num_asked": asked.num_rows}
    for table, column in ((USERS, c.USER_ID), (ITEMS, c.ITEM_ID)):
        known = tables.read_table(workspace, table, columns=[column])[column].combine_chunks()
        num_unknown = pc.sum(pc.invert(pc.is_in(asked[column], value_set=known))).as_py()
        if num_unknown == asked.num_rows:
            raise InputError(
                f"None of the {asked.num_rows:,} rows has a {column} that the workspace's {table} know; expected the ids "
                "of the ingested data, written alike. Look at them with: endcap profile"
            )
        figures[f"num_unknown_{table}"] = num_unknown
    return figures


def _with_periods(connection: Backend, asked: pa.Table, config: SplitConfig) -> pa.Table:
    named = asked.select([c.ROW_NUMBER, c.USER_ID, MOMENT_US]).rename_columns([c.ROW_NUMBER, c.USER_ID, c.TS_US])
    rows = ibis.memtable(named)
    marked = with_periods(rows, config, split_purchases(rows, config))
    periods = connection.to_pyarrow(marked.select(c.ROW_NUMBER, PERIOD).order_by(c.ROW_NUMBER))
    return asked.append_column(PERIOD, periods[PERIOD])


def _draw(
    workspace: Workspace,
    connection: Backend,
    asked: pa.Table,
    settings: SpineSettings,
    events: ir.Table,
    versions: ir.Table,
) -> pa.Table:
    wanted = positives(asked).select(list(_ASKED))
    items = duckdb.scan_table(connection, workspace, ITEMS, columns=(c.ITEM_ID, c.GROUP_ID))
    if settings.negatives == "impressions":
        return _shown(workspace, connection, wanted, settings, items)

    def bought(questions: pa.Table) -> pa.Table:
        return connection.to_pyarrow(bought_before(ibis.memtable(questions), events))

    return draw_as_of(
        wanted,
        CatalogByDay(connection, events, versions, items),
        _KINDS[settings.negatives or "uniform"],
        num_negatives=settings.num_negatives,
        seed=settings.seed,
        excluded=bought if settings.exclude_bought else None,
    )


def _shown(
    workspace: Workspace, connection: Backend, wanted: pa.Table, settings: SpineSettings, items: ir.Table
) -> pa.Table:
    """Negatives of impressions, whose users may still be the keys of a log."""
    if tables.version_in_force(workspace, IMPRESSIONS) is None:
        raise InputError(
            f"{workspace.path} holds no impressions. Ingest the logs of what was shown (endcap ingest --source logs "
            "FOLDER), or draw other negatives."
        )
    users = pc.unique(wanted[c.USER_ID])
    keys = [workspace.user_key(user_id) for user_id in users.to_pylist()]
    named = ibis.memtable(pa.table({"known_key": pa.array(keys, pa.string()), "known_user": users}))
    shown = duckdb.scan_table(connection, workspace, IMPRESSIONS)
    joined = shown.left_join(named, shown[c.USER_ID] == named["known_key"])
    shown = joined.mutate(**{c.USER_ID: ibis.coalesce(joined["known_user"], joined[c.USER_ID])})
    found = impression_negatives(
        ibis.memtable(wanted), shown, num_negatives=settings.num_negatives, seed=settings.seed, groups=items
    )
    return connection.to_pyarrow(found)


def _write_group(
    connection: Backend,
    path: Path,
    settings: SpineSettings,
    name: str,
    inputs: tuple[ir.Table, ir.Table, ir.Table],
) -> None:
    made = default.features_of([name], *inputs, sequence_length=settings.sequence_length)[name]
    order = [column for column in (QUERY_NUM, "rank") if column in made.columns]
    connection.to_parquet(made.order_by(order), path)


def _check(connection: Backend, folder: Path, settings: SpineSettings, events: ir.Table, versions: ir.Table) -> None:
    spine = pq.read_table(folder / f"{SPINE}.parquet", columns=list(_ASKED))
    sample = spine_leaks.sampled(spine)
    numbers = pc.unique(sample[QUERY_NUM])
    made = {
        name: pq.read_table(folder / f"{name}.parquet", filters=pc.field(QUERY_NUM).isin(numbers))
        for name in settings.groups
    }
    about = folder / "about.parquet"
    connection.to_parquet(spine_leaks.events_about(sample, events), about)

    def compute(spine: ir.Table, events: ir.Table, versions: ir.Table) -> dict[str, ir.Table]:
        return default.features_of(settings.groups, spine, events, versions, sequence_length=settings.sequence_length)

    spine_leaks.refuse_counted_future(connection, sample, made, connection.read_parquet(str(about)), versions, compute)
    about.unlink()
