"""The workspace's tables and a configuration in, feature tables out: built once for each version of data and split."""

from __future__ import annotations

import shutil
from pathlib import Path

import ibis
import msgspec

from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import InputError
from endcap.contracts.events import EVENTS, PURCHASE
from endcap.contracts.features import FeatureConfig
from endcap.contracts.reporting import Reporter
from endcap.engines import duckdb
from endcap.features import as_of, attributes, dataset, leaks, lines, point_in_time, products, purchases, signals, split
from endcap.flows.columns_asked import Asked, columns_asked, described_items, described_users
from endcap.workspace import ledger, lineage, tables
from endcap.workspace.atomic import publish_folder
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import RUN_MANIFEST, Run

_CODE = (as_of, attributes, dataset, leaks, lines, point_in_time, products, purchases, signals, split)
STEP = lineage.FEATURES
_DEFAULT_LENGTH = 1


def build_features(workspace: Workspace, configuration: Configuration, report: Reporter) -> dataset.FeatureTables:
    """The feature tables for the data in force; nothing is done when they are there already.

    Raises InputError when nothing was ingested or the split doesn't fit the data, ColumnsError when the FeatureConfig names a
    column that nobody has, ArtifactError when a table would know
    what it shouldn't.
    """
    versions, number = _versions(workspace), tables.number_in_force(workspace)
    target = configuration.features.target
    settings = dataset.Settings(
        configuration.split,
        configuration.questions,
        _max_length(configuration),
        lines.TargetSettings(target.column, target.log is not None) if target else None,
        _history_types(configuration),
    )
    asked = columns_asked(workspace, configuration.features)
    described = {
        "columns": msgspec.to_builtins(asked),
        "split": configuration.split.model_dump(mode="json"),
        "questions": configuration.questions.model_dump(mode="json"),
        "history_types": settings.history_types,
        "max_length": settings.max_length,
        "target": msgspec.to_builtins(settings.target),
    }
    key = ledger.StepKey(
        step=STEP,
        partition="all",
        inputs_digest=ledger.digest_of(versions),
        configuration_digest=ledger.digest_of(described),
        code_version=ledger.code_version_of(*(module.__name__ for module in _CODE)),
    )
    folder = workspace.features / key.digest[:16]
    entry = ledger.find_entry(workspace, key)
    if entry is not None and (folder / RUN_MANIFEST).is_file():
        return dataset.FeatureTables(folder=folder, split=msgspec.convert(entry.outputs, split.Split))
    run = Run(workspace, STEP)
    with run.stage("build"):
        built = _build(workspace, settings, configuration.features, asked, folder, report)
    outputs = msgspec.to_builtins(built.split)
    metrics = {name: value for name, value in outputs.items() if name != "kind"}
    manifest = run.finish(data_versions=versions, dataset_version=number, configuration=described, metrics=metrics)
    shutil.copy(manifest, folder / RUN_MANIFEST)
    ledger.record_entry(workspace, ledger.LedgerEntry(key=key, run_id=run.run_id, outputs=outputs))
    report.event("features built", folder=folder, purchases=sum(outputs[f"num_{p}"] for p in ("train", "eval", "test")))
    return built


def _build(
    workspace: Workspace,
    settings: dataset.Settings,
    config: FeatureConfig,
    asked: Asked,
    folder: Path,
    report: Reporter,
) -> dataset.FeatureTables:
    if folder.exists():  # complete files of a run that was killed before it was entered in the ledger
        shutil.rmtree(folder)
    with duckdb.session(workspace) as connection:
        events = duckdb.scan_table(connection, workspace, EVENTS, columns=lineage.columns_read(STEP, EVENTS))
        bought = ibis.memtable(connection.to_pyarrow(purchases.purchases_of(events)))
        labelled = None
        if settings.target is not None:
            labelled = ibis.memtable(connection.to_pyarrow(lines.labelled_purchases(events, settings.target)))
        met, others = bought, None
        if settings.signal_types:
            others = ibis.memtable(connection.to_pyarrow(signals.signals_of(events, settings.signal_types)))
            met = signals.acts_of(bought, others, (PURCHASE, *settings.signal_types))
        # A product that nobody ever met has no row a day: the catalog of a release says what it is.
        items = described_items(connection, workspace, config, asked).semi_join(met, "item_id")
        users = described_users(connection, workspace, config, asked)
        with publish_folder(folder) as aside:
            built = dataset.build(connection, bought, items, users, settings, aside, report, labelled, others)
            leaks.refuse_leaks(connection, built, users, settings, labelled, others)
    return dataset.FeatureTables(folder=folder, split=built.split)


def _versions(workspace: Workspace) -> dict[str, int]:
    current = tables.current_dataset(workspace)
    if current is None:
        raise InputError(f"{workspace.path} holds no data yet. Fill it with: endcap ingest --source online_retail FILE")
    return current.versions


def _history_types(configuration: Configuration) -> tuple[str, ...]:
    name = configuration.features.history
    sequence = configuration.features.buyer[name].sequence if name else None
    return tuple(sequence.event_types) if sequence else (PURCHASE,)


def _max_length(configuration: Configuration) -> int:
    name = configuration.features.history
    sequence = configuration.features.buyer[name].sequence if name else None
    return sequence.max_length if sequence else _DEFAULT_LENGTH
