"""Feature tables and a FeatureConfig in, what a model trains on out: transformed once, kept on disk, mapped from there.

Below the feature tables' folder, `transformed/KEY` holds one set: fitted transforms, training questions, catalog and
eval period. The key is that of everything the set depends on, so a second training on the same features fits nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import ibis
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from endcap.contracts import features as contract
from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.features import FeatureConfig
from endcap.contracts.reporting import Reporter
from endcap.evaluation import metrics
from endcap.evaluation.metrics import RaggedSets
from endcap.features import agreement, dataset, fitted, point_in_time, remarks
from endcap.features.dataset import LABEL_COLUMNS, FeatureTables, day_of
from endcap.features.fitted import FittedFeatures, fit
from endcap.features.remarks import remarks_on
from endcap.features.signals import FIRST_SEEN
from endcap.features.split import TRAIN, Split
from endcap.features.transforms import (
    base,
    crosses,
    graph,
    hashing,
    moments,
    multi_hot,
    numeric,
    raw,
    text,
    vocabulary,
)
from endcap.training import data, stored
from endcap.training.data import Catalog, Questions, questions_of
from endcap.training.loop import EvalPeriod
from endcap.workspace import ledger
from endcap.workspace.atomic import publish_folder, write_json
from endcap.workspace.exclusive import alone_in
from endcap.workspace.layout import Workspace

FOLDER: Final = "transformed"
NOTE: Final = "transformed.json"
NUM_KEPT: Final = 8
"""Sets that a workspace keeps; the one that was used the longest ago goes first."""

Stage = Literal["tune", "refit"]
"""`tune`: fitted on the train period, with the eval period to choose by. `refit`: fitted on all before the test."""

_FEATURES: Final = "features.json"
_REMARKS: Final = "remarks.json"
_QUESTIONS: Final = "questions"
_CATALOG: Final = "catalog"
_EVAL: Final = "eval"
_TEST: Final = "test"
_ROWS_AT_ONCE = 1 << 18
_CODE = tuple(
    module.__name__
    for module in (
        contract, agreement, dataset, fitted, point_in_time, remarks, base, crosses, graph, hashing, moments, multi_hot,
        numeric, raw, text, vocabulary, data, stored, metrics,
    )
)  # fmt: skip


@dataclass(frozen=True)
class Transformed:
    """A set: what trains a model, up to `end_us`; `day` is the day whose catalog it is released with."""

    folder: Path
    fitted: FittedFeatures
    questions: Questions
    catalog: Catalog
    day: int
    end_us: int
    period: EvalPeriod | None
    """The eval period; only for tuning."""


def transform(tables: FeatureTables, features: FeatureConfig, stage: Stage, report: Reporter) -> Transformed:
    """The set of a stage: opened where it is kept, else fitted, transformed and kept.

    A set that is damaged is made again. Raises ColumnsError when the tables lack what the FeatureConfig names.
    """
    folder = tables.folder / FOLDER / key_of(features, stage)
    found = _try(tables, folder, stage)
    if found is None:
        with alone_in(folder.parent):
            found = _try(tables, folder, stage)  # somebody else may have made it meanwhile
            if found is None:
                _make(tables, features, stage, folder, None)
                found = open_set(tables, folder, stage)
    for remark in _remarks_of(folder):
        report.event("remark on the features", remark=remark)
    return found


def restore(tables: FeatureTables, fitted: FittedFeatures, stage: Stage, folder: Path) -> Transformed:
    """The set in `folder`; where it is gone or damaged, it is made again by transforms that are fitted already."""
    found = _try(tables, folder, stage)
    if found is None:
        with alone_in(folder.parent):
            _make(tables, fitted.definition, stage, folder, fitted)
            found = open_set(tables, folder, stage)
    return found


class _Noted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run was tuned on: its feature tables, by their folder's name, their split, and the set below them."""

    tables: str
    split: Split
    tune: str


def note(run_folder: Path, tables: FeatureTables, features: FeatureConfig) -> None:
    """Say in a run's folder which set it was tuned on, for `noted`."""
    write_json(run_folder / NOTE, _Noted(tables.folder.name, tables.split, key_of(features, "tune")))


def noted(workspace: Workspace, run_folder: Path) -> tuple[FeatureTables, Path]:
    """The feature tables that a run was tuned on, and its set's folder, which may be gone.

    Raises InputError when the run noted none, ArtifactError when the note is damaged or the feature tables are gone.
    """
    path = run_folder / NOTE
    if not path.is_file():
        raise InputError(
            f"{run_folder.name} says nothing of transformed data: expected {path}, which `endcap train` writes. Give the id "
            "of a run of `endcap train`, or train again."
        )
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Noted)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{path} can't be read: {error}. Train again, and name that run.") from error
    folder = workspace.features / found.tables
    if not folder.is_dir():
        raise ArtifactError(
            f"The feature tables of {run_folder.name} are gone: expected {folder}. Train again, and name that run."
        )
    return FeatureTables(folder, found.split), folder / FOLDER / found.tune


def key_of(features: FeatureConfig, stage: Stage) -> str:
    """The name of a set below its feature tables."""
    described = [features.model_dump(mode="json", exclude_none=True), stage, ledger.code_version_of(*_CODE)]
    return ledger.digest_of(described)[:16]


def open_set(tables: FeatureTables, folder: Path, stage: Stage) -> Transformed:
    """The set that is kept in `folder`. Raises ArtifactError when something of it is missing or damaged."""
    try:
        fitted = msgspec.json.decode((folder / _FEATURES).read_bytes(), type=FittedFeatures)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{folder / _FEATURES} can't be read: {error}. Delete the folder and run again.") from error
    end_us = _end_us(tables, stage)
    os.utime(folder)  # used: the next one to go is another
    return Transformed(
        folder=folder,
        fitted=fitted,
        questions=stored.open_questions(folder / _QUESTIONS),
        catalog=stored.open_catalog(fitted, folder / _CATALOG),
        day=day_of(end_us),
        end_us=end_us,
        period=_open_period(folder / _EVAL, day_of(end_us)) if stage == "tune" else None,
    )


def open_test_period(tables: FeatureTables, found: Transformed) -> tuple[Catalog, EvalPeriod]:
    """The test period as the set's own transforms see it, and its catalog; made when it is first asked for."""
    folder, day = found.folder / _TEST, day_of(tables.split.test_start_us)
    with alone_in(folder.parent):
        try:
            return stored.open_catalog(found.fitted, folder / _CATALOG), _open_period(folder, day)
        except ArtifactError:
            shutil.rmtree(folder, ignore_errors=True)
        catalog = Catalog(found.fitted, tables.products_on(day))
        with publish_folder(folder) as aside:
            stored.store_catalog(catalog, aside / _CATALOG)
            _store_period(tables, found.fitted, catalog, _TEST, aside)
    return catalog, _open_period(folder, day)


def rows_to_fit(tables: FeatureTables, questions: pa.Table, end_us: int) -> tuple[pa.Table, pa.Table]:
    """What transforms are fitted on: the questions without their answers, and the products that were sold by `end_us`."""
    known = tables.products_on(day_of(end_us))
    # A product first sold on the day itself has no features as of midnight yet: it waits for the next release.
    # Where views and carts are learned from, a product that was only looked at can be recommended too.
    first = FIRST_SEEN if FIRST_SEEN in known.column_names else "days_since_first_sold"
    known = known.filter(pc.is_valid(known[first]))
    features = questions.drop_columns([name for name in LABEL_COLUMNS if name in questions.column_names])
    return features, known.drop_columns(["day"])


def _try(tables: FeatureTables, folder: Path, stage: Stage) -> Transformed | None:
    if not folder.is_dir():
        return None
    try:
        return open_set(tables, folder, stage)
    except ArtifactError:
        return None


def _make(
    tables: FeatureTables, features: FeatureConfig, stage: Stage, folder: Path, fitted: FittedFeatures | None
) -> None:
    """Write the set into `folder`, all or nothing; whoever calls is alone below the feature tables."""
    shutil.rmtree(folder, ignore_errors=True)
    for left in folder.parent.glob(".*"):  # of processes that were killed
        shutil.rmtree(left, ignore_errors=True)
    said: list[str] = []
    if fitted is None:
        fitted, said = _fit(tables, features, stage)
    catalog = Catalog(fitted, tables.products_until(day_of(_end_us(tables, stage))))
    with publish_folder(folder) as aside:
        write_json(aside / _FEATURES, fitted)
        write_json(aside / _REMARKS, said)
        stored.store_catalog(catalog, aside / _CATALOG)
        parts = (questions_of(fitted, rows) for rows in _training_rows(tables, stage))
        stored.store_parts(parts, aside / _QUESTIONS)
        if stage == "tune":
            _store_period(tables, fitted, catalog, _EVAL, aside / _EVAL)
    _remove_oldest(tables.folder.parent, spared=folder)


def _fit(tables: FeatureTables, features: FeatureConfig, stage: Stage) -> tuple[FittedFeatures, list[str]]:
    asked = tables.table("baskets")
    if stage == "tune":
        asked = asked.filter(pc.equal(asked["period"], TRAIN))
    buyers, products = rows_to_fit(tables, asked, _end_us(tables, stage))
    found = fit(features, ibis.memtable(buyers), ibis.memtable(products))
    return found, remarks_on(found, buyers, products)


def _training_rows(tables: FeatureTables, stage: Stage) -> Iterator[pa.Table]:
    """The training questions in their order, in parts of at least `_ROWS_AT_ONCE` rows unless there are fewer in all."""
    file = pq.ParquetFile(tables.folder / "baskets.parquet")
    left = file.schema_arrow.empty_table()
    for batch in file.iter_batches(_ROWS_AT_ONCE):
        rows = pa.Table.from_batches([batch])
        if stage == "tune":
            rows = rows.filter(pc.equal(rows["period"], TRAIN))
        left = pa.concat_tables([left, rows])
        if left.num_rows >= 2 * _ROWS_AT_ONCE:
            yield left.slice(0, _ROWS_AT_ONCE).combine_chunks()
            left = left.slice(_ROWS_AT_ONCE)
    yield left.combine_chunks()


def _store_period(
    tables: FeatureTables, fitted: FittedFeatures, catalog: Catalog, name: Literal["eval", "test"], folder: Path
) -> None:
    """The questions of a period, with what was bought in it and earlier as numbers after the catalog's order."""
    asked = tables.table(name)
    numbers = {item_id: number for number, item_id in enumerate(catalog.item_ids)}
    bought = [[numbers.setdefault(item, len(numbers)) for item in row] for row in asked["targets"].to_pylist()]
    place = {user_id: row for row, user_id in enumerate(asked["user_id"].to_pylist())}
    purchases, is_known = tables.purchases_before(name)
    before = purchases.filter(pa.array(is_known))
    earlier: list[list[int]] = [[] for _ in bought]
    for user_id, item in zip(before["user_id"].to_pylist(), before["item_id"].to_pylist(), strict=True):
        if (row := place.get(user_id)) is not None:
            earlier[row].append(numbers.setdefault(item, len(numbers)))
    stored.store_questions(questions_of(fitted, asked), folder / _QUESTIONS)
    stored.store_sets(RaggedSets.from_lists(bought), folder / "bought")
    stored.store_sets(RaggedSets.from_lists(earlier), folder / "earlier")


def _open_period(folder: Path, day: int) -> EvalPeriod:
    questions = stored.open_questions(folder / _QUESTIONS)
    return EvalPeriod(questions, stored.open_sets(folder / "bought"), stored.open_sets(folder / "earlier"), day)


def _end_us(tables: FeatureTables, stage: Stage) -> int:
    return tables.split.eval_start_us if stage == "tune" else tables.split.test_start_us


def _remarks_of(folder: Path) -> list[str]:
    try:
        return msgspec.json.decode((folder / _REMARKS).read_bytes(), type=list[str])
    except (OSError, msgspec.DecodeError):
        return []


def _remove_oldest(features: Path, spared: Path) -> None:
    """Keep the sets used last, of all feature tables of a workspace; what is mapped goes on being readable."""
    sets = [path for path in features.glob(f"*/{FOLDER}/*") if path != spared and not path.name.startswith(".")]
    for path in sorted(sets, key=lambda path: path.stat().st_mtime, reverse=True)[NUM_KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
