"""A workspace and a configuration in, a judged release out: fit, train, evaluate beside baselines, judge, pack."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import endcap
from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.release import DEFAULT_SIGNATURE, MANIFEST, REPORT, Lineage, Ranking, Retrieval
from endcap.contracts.reporting import Reporter
from endcap.evaluation.compare import Comparison
from endcap.evaluation.rating import RatingComparison
from endcap.features.dataset import FeatureTables
from endcap.features.point_in_time import DAY_US
from endcap.features.word_vectors import digests_of
from endcap.flows import evidence, fitting, judging, packing, registering, tracking
from endcap.flows.features import build_features
from endcap.flows.preconditions import check_before_training
from endcap.flows.rating import load_rating
from endcap.flows.rating_verdict import judge_ratings_on_test
from endcap.flows.resuming import Resumable, Started, sealed_by, staging
from endcap.flows.slicing import check_slice_columns
from endcap.flows.standing import standing_at
from endcap.flows.transformed import note
from endcap.releases.bundle import Release, next_version, open_release, seal_release
from endcap.releases.registry import Registry
from endcap.training.trackers.telling import Tracked
from endcap.workspace import ledger, tables
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import Run, describe_input, git_sha, library_versions

STEP = "train"
_PACKAGES = ("contracts", "features", "models", "training", "evaluation", "retrieval", "releases", "flows")


@dataclass(frozen=True)
class TrainResult:
    """What a training run gave."""

    run_id: str
    release: Release
    report: Path
    comparison: Comparison | None
    """Of recommendations; None where the release makes none."""
    ratings: RatingComparison | None = None
    """Of predicted targets; None where the release predicts none."""


def train_run(
    workspace: Workspace, configuration: Configuration, report: Reporter, started: Started | None = None
) -> TrainResult:
    """Build features where they are missing, train, evaluate on the test period, judge, and seal a release.

    A release is made whatever the verdict; the verdict stands in its manifest. Nothing is left half-written: the
    release appears whole or not at all. The same data, configuration and code give the release that is there already,
    and go on with the run that was stopped on its way there.
    """
    with tracking.tracked(configuration.trackers, report) as heard:
        return _train_run(workspace, configuration, heard, started or Started())


def _train_run(workspace: Workspace, configuration: Configuration, report: Tracked, started: Started) -> TrainResult:
    key = _step_key(workspace, configuration)
    done = _finished(workspace, key)
    if done is None:
        if ledger.is_claimed(workspace, STEP, key.digest):
            report.event("another process trains on the same data with the same configuration; waiting for it")
        with ledger.claim(workspace, STEP, key.digest):
            done = _finished(workspace, key)
            if done is None:
                resumable = Resumable(workspace, key, started, configuration.training, report)
                with resumable.under_way():
                    return _run(workspace, configuration, report, key, resumable)
    report.event(
        "nothing to train: the same data, configuration and code made this release",
        run_id=done.manifest.lineage.run_id,
        experiment=configuration.experiment,
        release=done.path,
    )
    return _judge_again(workspace, configuration, done, report)


def _run(
    workspace: Workspace,
    configuration: Configuration,
    report: Tracked,
    key: ledger.StepKey,
    resumable: Resumable,
) -> TrainResult:
    run, releases = resumable.run, workspace.releases / configuration.release.name
    report.event("run started", run_id=run.run_id, experiment=configuration.experiment)
    lineage = _lineage(workspace, configuration, run.run_id)
    tracking.start(report, run, configuration, lineage.data_versions, lineage.dataset_version)
    with run.stage("features"):
        feature_tables = build_features(workspace, configuration, report)
    sealed = sealed_by(releases, lineage) if resumable.may_be_sealed else None
    if sealed is not None:
        _conclude(workspace, configuration, feature_tables, key, resumable, sealed, report)
        return _judge_again(workspace, configuration, sealed, report)
    check_before_training(feature_tables, configuration, report)
    check_slice_columns(workspace, feature_tables, configuration.evaluation.slice_columns)
    resumable.begin()
    with run.stage("train"):
        tuned, final = _fit(feature_tables, configuration, report, resumable)
    with staging(releases, run.run_id) as folder:
        report.progress("exporting", 0, 1)
        with run.stage("export"):
            model_type = configuration.model.model_type
            retrieval = packing.write_model(final, configuration, folder) if model_type != "ranking" else None
            ranking = packing.write_ranker(final, configuration, folder) if model_type != "retrieval" else None
            standing = standing_at(workspace, final.day * DAY_US)
            packing.write_tables(final, feature_tables, standing, configuration.model.top_k, folder)
        report.progress("exporting", 1, 1)
        report.progress("evaluating", 0, 1)
        with run.stage("evaluate"):
            judged = _judge(workspace, feature_tables, configuration, final, folder, retrieval, ranking, report)
            judging.keep_rankings(judged, run.folder)
        report.progress("evaluating", 1, 1)
        metrics = judged.flat_metrics()
        judged.tell(report)
        judging.report_on(
            judged, releases.name, feature_tables, configuration, lineage, folder / "report", tuned.trained,
            run.timings_s,
        )  # fmt: skip
        manifest = packing.manifest_of(
            releases.name, feature_tables, retrieval, final.fitted, lineage, metrics, judged.blessing, ranking
        )
        with resumable.stop.held():
            release = seal_release(folder, _next(workspace, releases.name), manifest)
            page = _conclude(workspace, configuration, feature_tables, key, resumable, release, report)
    return TrainResult(run.run_id, release, page, judged.comparison, judged.ratings)


def _fit(
    feature_tables: FeatureTables, configuration: Configuration, report: Reporter, resumable: Resumable
) -> tuple[fitting.FittedModel, fitting.FittedModel]:
    """The model as it was tuned on the eval period, and as it is released."""
    folder = resumable.run.folder
    tuned = fitting.tune(feature_tables, configuration, report, resumable.keeping("tune"))
    _save(tuned, folder / "checkpoint-eval")
    note(folder, feature_tables, configuration.features)
    if not configuration.training.refit:
        return tuned, tuned
    num_epochs = tuned.trained.chosen_epoch
    final = fitting.refit(
        feature_tables, configuration, num_epochs, report, tuned.rating, resumable.keeping("refit")
    )  # fmt: skip
    _save(final, folder / "checkpoint")
    return tuned, final


def _save(model: fitting.FittedModel, folder: Path) -> None:
    if not folder.is_dir():  # by an earlier start of the run
        fitting.save_checkpoint(model, folder)


def _judge(
    workspace: Workspace,
    feature_tables: FeatureTables,
    configuration: Configuration,
    final: fitting.FittedModel,
    folder: Path,
    retrieval: Retrieval | None,
    ranking: Ranking | None,
    report: Reporter,
) -> judging.Judged:
    """Measure the parts of a release beside baselines and the champion."""
    found = []
    if retrieval is not None:
        inputs = packing.buyer_inputs(final.fitted)
        gathered = evidence.gather(workspace, feature_tables, configuration, final, folder, retrieval, inputs, report)
        judged = registering.judge_beside_champion(
            workspace, feature_tables, configuration, folder, retrieval, inputs, report, gathered
        )
        found.append(judged)
    if ranking is not None:
        parity = evidence.measure_rating_parity(feature_tables, configuration, final, folder, ranking)
        judged = registering.judge_ratings_beside_champion(
            workspace, feature_tables, configuration, folder, ranking, final, report, parity
        )
        found.append(judged)
    return _joined(found)


def _lineage(workspace: Workspace, configuration: Configuration, run_id: str) -> Lineage:
    described = configuration.model_dump(mode="json", exclude_none=True)
    versions, number = _data_versions(workspace), tables.number_in_force(workspace)
    return Lineage(run_id, git_sha(), configuration.seed, versions, described, library_versions(), number)


def _conclude(
    workspace: Workspace,
    configuration: Configuration,
    feature_tables: FeatureTables,
    key: ledger.StepKey,
    resumable: Resumable,
    release: Release,
    report: Tracked,
) -> Path:
    """What a sealed release entails: its report's copy, the run's record, the registry, the ledger; all may be done again."""
    run, manifest = resumable.run, release.manifest
    copied = workspace.reports / run.run_id
    shutil.copytree(release.file(REPORT).parent, copied, dirs_exist_ok=True)
    run.finish(
        inputs=[describe_input(path) for path in sorted(feature_tables.folder.glob("*.parquet"))],
        data_versions=manifest.lineage.data_versions,
        dataset_version=manifest.lineage.dataset_version,
        configuration=manifest.lineage.configuration,
        metrics=manifest.metrics,
    )
    registration = registering.register(workspace, configuration, release, report)
    resumable.close()
    outputs = {"release": release.path.relative_to(workspace.path).as_posix(), "digest": release.digest}
    ledger.record_entry(workspace, ledger.LedgerEntry(key=key, run_id=run.run_id, outputs=outputs))
    release_dir = configuration.trackers.release_dir
    tracking.tell_of_release(report, workspace, run, release, registration, release_dir)
    report.event("release sealed", release=release.path, verdict=manifest.blessing.status, digest=release.digest[:12])
    return copied / Path(REPORT).name


def _joined(found: Sequence[judging.Judged]) -> judging.Judged:
    """One judgement of recommendations and ratings, where a release has both."""
    first, last = found[0], found[-1]
    if first is last:
        return first
    return replace(first, ratings=last.ratings, blessing=judging.both([first.blessing, last.blessing]))


def _judge_release(
    workspace: Workspace, feature_tables: FeatureTables, configuration: Configuration, release: Release
) -> judging.Judged:
    """Measure a sealed release; ratings by what its run kept of the trees and the calibration."""
    manifest, found = release.manifest, []
    if manifest.retrieval is not None:
        inputs = manifest.signatures[DEFAULT_SIGNATURE].inputs
        found.append(
            judging.judge_on_test(workspace, feature_tables, configuration, release.path, manifest.retrieval, inputs)
        )
    if manifest.ranking is not None:
        kept = workspace.runs / manifest.lineage.run_id
        kept = kept / ("checkpoint" if configuration.training.refit else "checkpoint-eval")
        fitted, rating = fitting.read_features(kept), load_rating(kept)
        asked = (feature_tables, configuration, release.path, manifest.ranking, fitted, rating)
        found.append(registering.judged_ratings(*judge_ratings_on_test(*asked)))
    return _joined(found)


def evaluate_release(workspace: Workspace, path: Path, report: Reporter) -> TrainResult:
    """Score a release again on the test period that it was made for, and write a report of its own.

    Raises InputError when other data is in force than the release was made from: its test period would be another one,
    and part of it might have been trained on.
    """
    release = open_release(path)
    lineage = release.manifest.lineage
    if lineage.data_versions != _data_versions(workspace):
        raise InputError(
            f"{path} was made from the data versions {lineage.data_versions}; in force are {_data_versions(workspace)}. "
            "Its test period would not be the same. Train again, or evaluate it in the workspace that it comes from."
        )
    configuration = Configuration.model_validate(lineage.configuration)
    run = Run(workspace, "evaluate")
    report.event("run started", run_id=run.run_id, experiment=configuration.experiment)
    with run.stage("features"):
        feature_tables = build_features(workspace, configuration, report)
    report.progress("evaluating", 0, 1)
    with run.stage("evaluate"):
        judged = _judge_release(workspace, feature_tables, configuration, release)
        judging.keep_rankings(judged, run.folder)
    report.progress("evaluating", 1, 1)
    metrics = judged.flat_metrics()
    judged.tell(report)
    folder = workspace.reports / run.run_id
    paths = judging.report_on(
        judged, release.manifest.name, feature_tables, configuration, lineage, folder, None, run.timings_s
    )
    run.finish(
        data_versions=lineage.data_versions,
        dataset_version=tables.number_in_force(workspace),
        configuration=lineage.configuration,
        metrics=metrics,
    )
    return TrainResult(run.run_id, release, paths.page, judged.comparison, judged.ratings)


def _step_key(workspace: Workspace, configuration: Configuration) -> ledger.StepKey:
    return ledger.StepKey(
        step=STEP,
        partition="all",
        inputs_digest=ledger.digest_of(_data_versions(workspace) | digests_of(configuration.features)),
        configuration_digest=ledger.digest_of(configuration.described()),
        code_version=_code_version(),
    )


def _code_version() -> str:
    """Digest of the source of every package that a run goes through."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((Path(endcap.__file__).parent / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _finished(workspace: Workspace, key: ledger.StepKey) -> Release | None:
    """The release that the run under `key` made, if it is still there and whole."""
    entry = ledger.find_entry(workspace, key)
    if entry is None or not (workspace.path / entry.outputs["release"] / MANIFEST).is_file():
        return None
    try:
        release = open_release(workspace.path / entry.outputs["release"])
    except ArtifactError:  # damaged since: made again, under the next version
        return None
    return release if release.digest == entry.outputs["digest"] else None


def _judge_again(workspace: Workspace, configuration: Configuration, release: Release, report: Reporter) -> TrainResult:
    """The result of a run that is done: its figures are measured anew, nothing is written."""
    manifest = release.manifest
    report.progress("evaluating", 0, 1)
    judged = _judge_release(workspace, build_features(workspace, configuration, report), configuration, release)
    report.progress("evaluating", 1, 1)
    return TrainResult(manifest.lineage.run_id, release, release.file(REPORT), judged.comparison, judged.ratings)


def list_releases(workspace: Workspace) -> list[Release]:
    """Every sealed release of the workspace, by name and version. Damaged ones raise ArtifactError."""
    found = [path.parent for path in workspace.releases.glob("*/*/manifest.json") if path.parent.name.isdigit()]
    return [open_release(path) for path in sorted(found, key=lambda path: (path.parent.name, int(path.name)))]


def _data_versions(workspace: Workspace) -> dict[str, Any]:
    current = tables.current_dataset(workspace)
    if current is None:
        raise InputError(f"{workspace.path} holds no data yet. Fill it with: endcap ingest --source online_retail FILE")
    return dict(current.versions)


def _next(workspace: Workspace, name: str) -> Path:
    folder = workspace.releases / name
    # A version whose folder was deleted is not used again: the registry remembers it.
    registered = [one.version for one in Registry.of(workspace).registrations(name)]
    return folder / str(max([next_version(folder), *(version + 1 for version in registered)]))
