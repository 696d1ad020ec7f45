"""An earlier run's transformed data and another model in, its metrics beside those of earlier quick tests out: no release.

A quick test trains on the train period and chooses its epoch on the eval period, as tuning does; then the test period
is asked once. What it is compared with is the source run's own model after tuning, measured in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file

from endcap.contracts import columns as c
from endcap.contracts.configuration import Configuration, ModelConfig
from endcap.contracts.errors import ArtifactError, EndcapError, InputError
from endcap.contracts.features import FeatureConfig
from endcap.contracts.reporting import Reporter
from endcap.evaluation.compare import SystemRankings
from endcap.evaluation.files import USER_KEY
from endcap.evaluation.kept import TRUTH, keep, kept_rankings
from endcap.features.dataset import FeatureTables
from endcap.features.fitted import FittedFeatures
from endcap.features.split import TRAIN
from endcap.flows import transformed
from endcap.flows.fitting import read_features, tune_on
from endcap.flows.quicktest_measures import Measured, measure_model, model_of, remarks_on, validated
from endcap.flows.quicktest_record import STEP, Record, changes_between, records_of, write_record
from endcap.flows.rating import load_rating
from endcap.models.two_tower import TwoTower
from endcap.releases.ancestry import resolve
from endcap.releases.bundle import open_release
from endcap.training.data import Catalog
from endcap.training.loop import EvalPeriod, rank_period
from endcap.workspace.configuration import overridden
from endcap.workspace.exclusive import alone_in
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import RUN_MANIFEST, Run, RunManifest, describe_input, new_run_id, read_manifest

GROUPS: Final = ("model", "training", "seed")
"""What a quick test may set otherwise than its source run."""
DEFAULT_EPOCHS: Final = 2

_MAX_SAID = 60
_TUNED: Final = "checkpoint-eval"


class TimedOutError(InputError):
    """The time that was given is over."""


@dataclass(frozen=True)
class Plan:
    """A quick test that may begin: all of it was checked."""

    source_run: str
    configuration: Configuration
    source: Configuration
    tables: FeatureTables
    folder: Path
    """Of the transformed data, which is made again where it is gone."""
    fitted: FittedFeatures
    num_questions: int
    num_eval: int
    num_test: int
    num_products: int
    num_parameters: int
    estimated_s: float | None
    """Seconds, by how long the source run took for an epoch; None where that is unknown."""
    data_versions: dict[str, int]
    dataset_version: int

    @property
    def changes(self) -> dict[str, Any]:
        """In which keys it differs from its source run."""
        return changes_between(self.configuration, self.source)


def find_source(workspace: Workspace, said: str) -> str:
    """The id of a training run: as it is, or that of the run that made a release (`NAME@ALIAS`, `NAME/VERSION`).

    Raises InputError when there is neither.
    """
    if (workspace.runs / said).is_dir() and Path(said).name == said:
        return said
    path = resolve(workspace, said)
    if path.is_dir():
        return open_release(path).manifest.lineage.run_id
    runs = sorted(path.parent.name for path in workspace.runs.glob("*/" + transformed.NOTE))
    there = f"the latest are {', '.join(runs[-3:])}" if runs else "there are none yet: endcap train makes one"
    raise InputError(f"There is no run or release {said!r} in {workspace.path}. Of runs of `endcap train`, {there}.")


def plan(
    workspace: Workspace,
    source_run: str,
    *,
    features: tuple[FeatureConfig, Path] | None = None,
    model: ModelConfig | None = None,
    overrides: Sequence[str] = (),
    num_epochs: int | None = None,
) -> Plan:
    """Check all that a quick test needs, and say what it would do.

    `features` are compared with the source run's; `model` takes the place of the source run's.

    Raises InputError when the features differ, each key named, or a setting is wrong; ArtifactError when the source
    run's data are gone.
    """
    manifest = read_manifest(workspace, source_run)
    folder = workspace.runs / source_run
    tables, kept = transformed.noted(workspace, folder)
    source = Configuration.model_validate(manifest.configuration)
    if features is not None:
        _refuse_other_features(*features, source.features, source_run)
    configuration = _configured(source, model, overrides, num_epochs, folder / RUN_MANIFEST)
    fitted = _read_features(folder / _TUNED, source_run)
    products = next(column for column in fitted.columns("product") if column.source == fitted.definition.item_id)
    periods = pq.read_table(tables.folder / "baskets.parquet", columns=["period"])["period"]
    return Plan(
        source_run=source_run,
        configuration=configuration,
        source=source,
        tables=tables,
        folder=kept,
        fitted=fitted,
        num_questions=pc.sum(pc.equal(periods, TRAIN)).as_py() or 0,
        num_eval=pq.read_metadata(tables.folder / "eval.parquet").num_rows,
        num_test=pq.read_metadata(tables.folder / "test.parquet").num_rows,
        num_products=products.cardinality - 1,
        num_parameters=sum(weight.numel() for weight in model_of(fitted, configuration.model).parameters()),
        estimated_s=_estimated_s(folder, manifest, configuration.training.num_epochs),
        data_versions=manifest.data_versions,
        dataset_version=manifest.dataset_version,
    )


def run_quicktest(
    workspace: Workspace, planned: Plan, report: Reporter, *, timeout_s: float | None = None, run_id: str | None = None
) -> Record:
    """Train, measure, and keep the metrics in the run's manifest; no release is made.

    Raises TimedOutError when `timeout_s` is over, after the step that was under way; the record says so.
    """
    run = Run(workspace, STEP, run_id=run_id or new_run_id(STEP))
    started = time.monotonic()
    record = Record(
        run_id=run.run_id,
        source_run=planned.source_run,
        state="running",
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        changes=planned.changes,
        num_epochs=planned.configuration.training.num_epochs,
        num_parameters=planned.num_parameters,
    )
    with alone_in(run.folder):
        write_record(workspace, record)
        report.event("run started", run_id=run.run_id, experiment=planned.configuration.experiment)
        deadline = None if timeout_s is None else started + timeout_s
        try:
            found = _measured(workspace, planned, run, _Watch(report, deadline))
        except (EndcapError, KeyboardInterrupt) as error:
            state = {TimedOutError: "timed_out", KeyboardInterrupt: "stopped"}.get(type(error), "failed")
            _end(workspace, record, started, state=state, error=str(error))
            raise
        except BaseException:
            _end(workspace, record, started, state="failed", error="a fault of Endcap's own: see the log")
            raise
        run.finish(
            inputs=[describe_input(path) for path in sorted(planned.tables.folder.glob("*.parquet"))],
            data_versions=planned.data_versions,
            dataset_version=planned.dataset_version,
            configuration=planned.configuration.model_dump(mode="json", exclude_none=True),
            metrics=found["metrics"],
            remarks=found["remarks"],
        )
        return _end(workspace, record, started, state="completed", **found)


def _measured(workspace: Workspace, planned: Plan, run: Run, report: _Watch) -> dict[str, Any]:
    configuration = planned.configuration
    with run.stage("data"):
        data = transformed.restore(planned.tables, planned.fitted, "tune", planned.folder)
        on = Measured(planned.tables, data, *transformed.open_test_period(planned.tables, data))
        report.check("while the data were opened")
    with run.stage("train"):
        tuned = tune_on(planned.tables, data, configuration, report)
        trained = tuned.trained
        report.check("before the test period was asked")
    with run.stage("evaluate"):
        if configuration.model.model_type != "ranking":
            _keep_rankings(workspace, planned, run.folder, trained.model, on.test_catalog, on.test)
        seen = trained.epochs[trained.chosen_epoch - 1].metrics
        metrics = measure_model(trained.model, configuration, tuned.rating, on, seen)
        source = _source_metrics(workspace, planned, on)
    for name, value in metrics.items():
        if value is not None:
            report.metric(trained.chosen_epoch, name, value)
    return {
        "metrics": metrics,
        "source_metrics": source,
        "remarks": remarks_on(configuration),
        "chosen_epoch": trained.chosen_epoch,
    }


def _keep_rankings(
    workspace: Workspace, planned: Plan, folder: Path, model: TwoTower, catalog: Catalog, period: EvalPeriod
) -> None:
    """What it recommends, for `endcap compare`: the truth is that of the source run, where it kept one."""
    try:
        truth = pq.read_table(workspace.runs / planned.source_run / TRUTH)
    except (OSError, pa.ArrowInvalid):
        return
    users = planned.tables.table("test")[c.USER_ID].to_pylist()
    keys = np.array([workspace.user_key(user_id) for user_id in users])
    judged = np.isin(keys, truth[USER_KEY].to_numpy(zero_copy_only=False).astype(str))
    every, new = (each[judged] for each in rank_period(model, catalog, period))
    system = SystemRankings(planned.source_run, "the quick test", every, new)
    keep(folder, kept_rankings(system, keys[judged].tolist(), pa.array(catalog.item_ids, pa.string())), truth)


def _source_metrics(workspace: Workspace, planned: Plan, on: Measured) -> dict[str, float | None]:
    """The same of the source run's model after tuning; taken from an earlier quick test where there is one."""
    source = planned.source.model_copy(
        update={
            "training": planned.source.training.model_copy(update={"metric": planned.configuration.training.metric})
        }
    )
    name = validated(source)
    for record in records_of(workspace, planned.source_run):
        if record.source_metrics and (name is None or name in record.source_metrics):
            return record.source_metrics
    folder = workspace.runs / planned.source_run / _TUNED
    model = model_of(planned.fitted, source.model)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
        rating = load_rating(folder) if source.model.model_type != "retrieval" else None
    except (OSError, SafetensorError, RuntimeError, ArtifactError):
        return {}  # gone, or of a model that is built otherwise: the quick test stands by itself
    return measure_model(model.eval(), source, rating, on)


def _end(workspace: Workspace, record: Record, started: float, **found: Any) -> Record:
    ended = msgspec.structs.replace(
        record,
        ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        **found,
    )
    write_record(workspace, ended)
    return ended


class _Watch:
    """Passes on what it hears, and stops the work when the time is over."""

    def __init__(self, report: Reporter, deadline: float | None) -> None:
        self._report, self._deadline = report, deadline

    def event(self, event: str, **fields: object) -> None:
        self._report.event(event, **fields)

    def metric(self, step: int, metric: str, value: float) -> None:
        self._report.metric(step, metric, value)

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        self._report.progress(stage, done, total, note)
        self.check(f"in {stage}, {done:g} of {total:g} steps done")

    def check(self, place: str) -> None:
        """Raise TimedOutError when the time is over."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TimedOutError(
                f"Timed out {place}. Nothing was measured, and the run is marked so. Give a longer --timeout, fewer --epochs "
                "or a smaller model."
            )


def _refuse_other_features(given: FeatureConfig, file: Path, expected: FeatureConfig, source_run: str) -> None:
    mine, theirs = (each.model_dump(mode="json", exclude_none=True) for each in (given, expected))
    lines = list(_differences(mine, theirs, "features"))
    if not lines:
        return
    raise InputError(
        f"{file} is not what {source_run} was transformed with; it differs in {len(lines)} key{'s' if len(lines) > 1 else ''}:\n"
        + "\n".join(lines)
        + "\nA quick test reuses the run's transformed data. Leave --features out to use the run's own, or train with "
        f"these first: endcap train features={file.stem}"
    )


def _differences(found: dict[str, Any], expected: dict[str, Any], where: str) -> Iterator[str]:
    """A line for each key that differs; a column that one side lacks is one key."""
    for key in [*expected, *(key for key in found if key not in expected)]:
        mine, theirs = found.get(key), expected.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            yield from _differences(mine, theirs, f"{where}.{key}")
        elif mine != theirs:
            yield f"  {where}.{key}: found {_said(found, key)}, expected {_said(expected, key)}"


def _said(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return "nothing"
    said = str(values[key]).replace("'", "")
    return said if len(said) <= _MAX_SAID else f"{said[:_MAX_SAID]}…"


def _configured(
    source: Configuration, model: ModelConfig | None, overrides: Sequence[str], num_epochs: int | None, origin: Path
) -> Configuration:
    is_overridden = any(text.lstrip("+").startswith("training.num_epochs=") for text in overrides)
    if num_epochs is not None and is_overridden:
        raise InputError("The number of epochs is given twice, by --epochs and by training.num_epochs. Give it once.")
    values = source.model_dump(mode="json", exclude_none=True)
    if model is not None:
        values["model"] = model.model_dump(mode="json", exclude_none=True)
    values["training"]["num_epochs"] = num_epochs or DEFAULT_EPOCHS
    values["evaluation"]["baselines"][
        "rated"
    ] = []  # trees are grown where they are to answer, not to be measured against
    # Checked by the overriding, so that each complaint names the key that is wrong.
    return overridden(values, overrides, GROUPS, origin)


def _read_features(folder: Path, source_run: str) -> FittedFeatures:
    try:
        return read_features(folder)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(
            f"{source_run} has no fitted transforms any more: {error}. Train again, and name that run."
        ) from error


def _estimated_s(folder: Path, manifest: RunManifest, num_epochs: int) -> float | None:
    """By the source run's own epochs, tuning and refit together."""
    done = 0
    for checkpoint in (_TUNED, "checkpoint"):
        try:
            told = msgspec.json.decode((folder / checkpoint / "epochs.json").read_bytes())
            done += len(told["epochs"])
        except (OSError, msgspec.DecodeError, KeyError, TypeError):
            continue
    spent = manifest.timings_s.get("train")
    return spent / done * num_epochs if spent and done else None
