"""The demo shop in, a rating network and LightGBM searched alike and their errors on its test period out, seed by seed.

    python -m benchmarks.quality.ranking --data online_retail.parquet --trials 16 --seeds 7 8 9

Optuna proposes equally many settings to both, the experiment's own first; each is fitted on the train period and measured by
RMSE, as learned, on the eval period, the network after its best epoch. The best few of either side are fitted with two more
seeds, and their mean decides: one seed's luck chooses badly. So far a network is one member. The best of both then go through
a whole training run for every seed, the network with as many members as the experiment says. Trials are kept in the workspace, so a benchmark that was stopped goes on where it was. Intervals are
paired over customers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages.journal import JournalFileBackend

from benchmarks.report import Report
from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Silent
from endcap.evaluation.rating import RatingComparison
from endcap.features.split import EVAL, TRAIN
from endcap.flows.features import build_features
from endcap.flows.rating import columns_of, rated_of
from endcap.flows.search import suggest
from endcap.flows.train_run import train_run
from endcap.flows.transformed import transform
from endcap.ingest.pipeline import ingest
from endcap.models.boosted_trees import BoostedTrees
from endcap.training.loop import CHOSEN_BY, fit_model
from endcap.training.rating_columns import column_names
from endcap.workspace.configuration import load_configuration
from endcap.workspace.layout import MARKER, Workspace
from endcap.workspace.search_space import parse_search_space

FloatArray = NDArray[np.float64]
Settings = Mapping[str, Any]

NETWORK: Final = "network"
TREES: Final = BoostedTrees.name
SPACES: Final = {
    NETWORK: parse_search_space([
        "training.learning_rate=tag(log,interval(1e-3,6e-3))",
        "training.batch_size=choice(32,64,128)",
        "training.weight_decay=tag(log,interval(1e-6,1e-1))",
        "training.id_dropout=interval(0.0,0.5)",
        "training.history_dropout=interval(0.0,0.2)",
        "training.profile_dropout=interval(0.0,0.2)",
        "model.dropout=interval(0.0,0.3)",
    ]),
    TREES: parse_search_space([
        "evaluation.baselines.lightgbm.learning_rate=tag(log,interval(0.02,0.2))",
        "evaluation.baselines.lightgbm.num_leaves=tag(log,int(interval(15,255)))",
        "evaluation.baselines.lightgbm.min_lines=tag(log,int(interval(10,400)))",
        "evaluation.baselines.lightgbm.column_share=interval(0.3,1.0)",
        "evaluation.baselines.lightgbm.line_share=interval(0.5,1.0)",
        "evaluation.baselines.lightgbm.l2=tag(log,interval(0.01,100.0))",
        "evaluation.baselines.lightgbm.patience=choice(30,60)",
    ]),
}  # fmt: skip
_RANDOM_TRIALS = 3
_NUM_FINALISTS = 4
_FINAL_SEEDS = 2
_UNCUT_TRIALS = 4
_UNCUT_EPOCHS = 1


class Searched:
    """What every trial is fitted on and measured by, made once."""

    def __init__(self, workspace: Workspace, configuration: Configuration) -> None:
        """Take what a training run of the configuration would learn from."""
        self._tables = build_features(workspace, configuration, Silent())
        self._data = transform(self._tables, configuration.features, "tune", Silent())
        self._rated = rated_of(self._tables, configuration, self._data.fitted, "tune")

    @cached_property
    def _columns(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        """The trees' columns and their target, by period."""
        made = (self._tables, self._data.fitted, self._rated.target)
        return {period: columns_of(*made, [period])[1:] for period in (TRAIN, EVAL)}

    def measure(self, name: str, configuration: Configuration, heard: Callable[[int, float], None]) -> float:
        """RMSE of one side; `heard` is told that of each epoch, where there are any."""
        return self.network(configuration, heard) if name == NETWORK else self.trees(configuration)

    def network(self, configuration: Configuration, heard: Callable[[int, float], None]) -> float:
        """RMSE of the best epoch; `heard` is told that of each."""
        watch, data = _Watch(heard), self._data
        fit_model(
            configuration, data.fitted, data.catalog, data.questions, data.end_us, watch,
            evaluate=data.period, rated=self._rated,
        )  # fmt: skip
        return min(watch.values)

    def trees(self, configuration: Configuration) -> float:
        """RMSE of as many trees as did best."""
        settings = configuration.evaluation.baselines.lightgbm
        columns, target = self._columns[EVAL]
        grown = BoostedTrees.fit(
            column_names(self._data.fitted), *self._columns[TRAIN], settings, configuration.seed,
            evaluate=(columns, target),
        )  # fmt: skip
        return float(np.sqrt(((grown.predict(columns) - target) ** 2).mean()))


class _Watch(Silent):
    def __init__(self, heard: Callable[[int, float], None]) -> None:
        self._heard = heard
        self.values: list[float] = []

    def metric(self, step: int, metric: str, value: float) -> None:
        """Pass on what the epochs are chosen by."""
        if metric == CHOSEN_BY:
            self.values.append(-value)
            self._heard(step, -value)


def study_of(workspace: Workspace, name: str) -> optuna.Study:
    """The trials so far of one side."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = workspace.runs / "benchmark-ranking"
    folder.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / f"{name}.log"))),
        study_name=name,
        direction="minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNCUT_TRIALS, n_warmup_steps=_UNCUT_EPOCHS),
        load_if_exists=True,
    )


def search(workspace: Workspace, name: str, fixed: list[str], num_trials: int) -> None:
    """Try settings of one side until `num_trials` have ended, those of earlier calls included."""
    study = study_of(workspace, name)
    if len(_ended(study)) >= num_trials:
        return
    own, space = load_configuration(fixed), SPACES[name]
    searched = Searched(workspace, own)
    while (number := len(_ended(study))) < num_trials:
        study.sampler = optuna.samplers.TPESampler(seed=own.seed + number, n_startup_trials=_RANDOM_TRIALS)
        if not number:
            study.enqueue_trial({key: value_of(own, key) for key in space.searched})
        trial = study.ask()
        settings = {key: suggest(trial, key, space) for key in space.searched}

        def heard(step: int, value: float, trial: optuna.Trial = trial) -> None:
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        started = time.perf_counter()
        try:
            tried = load_configuration([*fixed, *overrides_of(settings)])
            value = searched.measure(name, tried, heard)
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            value = float("nan")
        else:
            study.tell(trial, value)
        told = ", ".join(f"{key.rpartition('.')[2]} {one:.4g}" for key, one in settings.items())
        print(f"{name} {number + 1}: rmse {value:.4f} in {time.perf_counter() - started:.0f} s; {told}", flush=True)


def play_off(workspace: Workspace, name: str, fixed: list[str]) -> tuple[Settings, float]:
    """The settings of one side whose mean over seeds is best on the eval period, and that mean."""
    study, own = study_of(workspace, name), load_configuration(fixed)
    ended = [trial for trial in study.trials if trial.state is optuna.trial.TrialState.COMPLETE]
    finalists = sorted(ended, key=lambda trial: trial.values[0])[:_NUM_FINALISTS]
    searched: Searched | None = None
    means = {}
    for trial in finalists:
        key = f"finalist {trial.number}"
        if key not in study.user_attrs:
            searched = searched or Searched(workspace, own)
            values = [trial.values[0]]
            for further in range(1, _FINAL_SEEDS + 1):
                tried = load_configuration([*fixed, f"seed={own.seed + further}", *overrides_of(trial.params)])
                values.append(searched.measure(name, tried, lambda *_: None))
            study.set_user_attr(key, values)
        values = study.user_attrs[key]
        means[trial.number] = float(np.mean(values))
        told = ", ".join(f"{value:.4f}" for value in values)
        print(f"{name} {trial.number + 1}, by seed: {told}; mean {means[trial.number]:.4f}", flush=True)
    best = min(finalists, key=lambda trial: means[trial.number])
    return best.params, means[best.number]


def value_of(configuration: Configuration, key: str) -> Any:
    """What a dotted key says."""
    found: Any = configuration
    for part in key.split("."):
        found = getattr(found, part)
    return found


def overrides_of(settings: Settings) -> list[str]:
    """Settings as overrides."""
    return [f"{key}={value}" for key, value in settings.items()]


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    # One that was stopped from outside still stands as running, and is tried anew.
    return [trial for trial in study.trials if trial.state.is_finished()]


def add_rows(report: Report, seed: int, comparison: RatingComparison) -> None:
    """Add a row a scale, and keep the worst ratio over the seeds."""
    size = f"seed {seed}, {comparison.num_lines:,} lines of {comparison.num_customers:,} customers"
    trees = next(system for system in comparison.systems if system.name == TREES)
    scales = (("rmse", comparison.ratios), ("rmse_own_units", comparison.own_units_ratios))
    for metric, ratios in scales:
        ratio = ratios[TREES]
        report.add(
            metric, "network beside LightGBM", size,
            network=round(comparison.candidate.metrics[metric].mean, 4), lightgbm=round(trees.metrics[metric].mean, 4),
            ratio=f"{ratio.mean:.4f}", low=f"{ratio.low:.4f}", high=f"{ratio.high:.4f}",
        )  # fmt: skip
        key = f"quality.ranking.{metric}"
        report.ratios[key] = min(1 / ratio.mean, report.ratios.get(key, 1 / ratio.mean))


def workspace_of(data: Path, made: Path) -> Workspace:
    """The workspace at `data`, or one in `made` that holds the invoices of the file `data`."""
    if (data / MARKER).is_file():
        return Workspace.open(data)
    if not data.is_file():
        raise InputError(f"{data} is neither a workspace nor a file of the demo shop's invoices.")
    workspace = Workspace.init(made)
    ingest(workspace, "online_retail", data, Silent())
    return workspace


def run(workspace: Workspace, arguments: argparse.Namespace) -> None:
    """Search what is asked for, then fit and measure the best of both."""
    fixed = [f"experiment={arguments.experiment}", f"seed={arguments.search_seed}", "model.num_members=1"]
    for name in arguments.search:
        search(workspace, name, fixed, arguments.trials)
    best = {}
    for name in SPACES:
        study = study_of(workspace, name)
        if len(_ended(study)) < arguments.trials:
            print(f"{name}: {len(_ended(study))} of {arguments.trials} trials; search on before anything is tested")
            return
        settings, mean = play_off(workspace, name, fixed)
        best |= settings
        print(f"{name}: best of {arguments.trials} on the eval period {mean:.4f}, mean of {_FINAL_SEEDS + 1} seeds")
    print("\n".join(overrides_of(best)))
    report = Report("Errors of predicted spend on a line", ["torch", "lightgbm", "optuna"])
    for seed in arguments.seeds:
        overrides = [f"experiment={arguments.experiment}", f"seed={seed}", *overrides_of(best)]
        result = train_run(workspace, load_configuration(overrides), Silent())
        print(f"seed {seed}: {result.release.manifest.blessing.status}", flush=True)
        if result.ratings is not None:
            add_rows(report, seed, result.ratings)
    if arguments.seeds:
        report.print()
        if arguments.json:
            report.write_json(arguments.json)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a workspace, or the demo shop's file")
    parser.add_argument("--experiment", default="ranking")
    parser.add_argument("--trials", type=int, default=16, help="of either side")
    parser.add_argument("--search", nargs="*", choices=list(SPACES), default=list(SPACES), help="sides to search")
    parser.add_argument("--search-seed", type=int, default=7)
    parser.add_argument("--seeds", type=int, nargs="*", default=[7, 8, 9], help="of the fits that are tested")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        try:
            run(workspace_of(arguments.data, Path(made) / "shop"), arguments)
        except InputError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
