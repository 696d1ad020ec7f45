"""A workspace and ranges of settings in, the settings that do best on the eval period out: Optuna proposes, we train.

Trials are kept in a journal as they end, so that a search that was stopped goes on where it was; unpromising ones are
cut after an epoch. The test period is never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Reporter, Silent
from endcap.flows import fitting
from endcap.flows.features import build_features
from endcap.flows.preconditions import check_before_training
from endcap.training.epochs import CHOSEN_BY
from endcap.training.rating import RATING_METRIC
from endcap.workspace import ledger
from endcap.workspace.atomic import write_json
from endcap.workspace.configuration import load_configuration
from endcap.workspace.layout import Workspace
from endcap.workspace.search_space import Choice, SearchSpace

if TYPE_CHECKING:
    import optuna

JOURNAL: Final = "journal.log"
SPACE: Final = "space.json"
TRIALS: Final = "trials.json"

_ERROR: Final = "error"
_NUM_RANDOM = 5
_NUM_UNCUT = 3


@dataclass(frozen=True)
class TrialResult:
    """One set of settings: `state` is complete, pruned or failed; `value` the best eval metric that it came to."""

    number: int
    state: str
    value: float | None
    settings: Mapping[str, Any]
    num_epochs: int
    error: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class SearchResult:
    """All trials in their order, the best one, and the overrides that give its configuration."""

    folder: Path
    metric: str
    trials: list[TrialResult]
    best: TrialResult
    overrides: list[str]


def search(
    workspace: Workspace, space: SearchSpace, *, num_trials: int, name: str, report: Reporter, conf: Path | None = None
) -> SearchResult:
    """Try settings until `num_trials` have ended, those of an earlier, unfinished search of the same name included.

    The same ranges, data and seed propose the same settings, in one go or in several. Raises InputError when the name
    belongs to another search, or when no trial ends.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base = load_configuration(space.fixed, conf)
    _check(space, conf)
    check_before_training(build_features(workspace, base, Silent()), base, report)
    folder = workspace.runs / f"search-{name}"
    _claim(folder, space, base)
    study = _study(folder, name)
    _repeat_unfinished(study)
    while len(ended := _ended(study)) < num_trials:
        study.sampler = optuna.samplers.TPESampler(seed=base.seed + len(ended), n_startup_trials=_NUM_RANDOM)
        trial = study.ask()
        settings = {key: suggest(trial, key, space) for key in space.searched}
        report.progress("searching", len(ended), num_trials, _told(study, settings))
        _run(study, trial, workspace, [*space.fixed, *(f"{key}={value}" for key, value in settings.items())], conf)
        report.metric(trial.number, "value", _value(study.trials[trial.number]) or math.nan)
    report.progress("searching", 1, 1, f"{num_trials} trials")
    return _result(study, folder, base, space)


def _check(space: SearchSpace, conf: Path | None) -> None:
    """Try the ends of every range on the configuration, so that a wrong key or value is said before any training."""
    for key, range_ in space.searched.items():
        ends = range_.values if isinstance(range_, Choice) else (range_.low, range_.high)
        for end in ends:
            value = int(end) if not isinstance(range_, Choice) and range_.is_whole and end is not None else end
            load_configuration([*space.fixed, f"{key}={value}"], conf)


def _claim(folder: Path, space: SearchSpace, base: Configuration) -> None:
    """Say what is searched; another search of the same name is refused."""
    described = {"ranges": {key: repr(value) for key, value in space.searched.items()}, "fixed": sorted(space.fixed)}
    digest = ledger.digest_of([described, base.model_dump(mode="json")])
    path = folder / SPACE
    if path.is_file():
        if digest not in path.read_text(encoding="utf-8"):
            raise InputError(
                f"{folder} holds a search over other ranges or settings. Give this one another --name, or the same "
                "overrides to go on with it."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"digest": digest, **described})


def _study(folder: Path, name: str) -> optuna.Study:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    return optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        study_name=name,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_NUM_UNCUT, n_warmup_steps=1),
        load_if_exists=True,
    )


def _repeat_unfinished(study: optuna.Study) -> None:
    """What was under way when a search was stopped is tried again, first of all."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.trials if trial.state.is_finished() and not _was_stopped(trial)]


def _was_stopped(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.state.name == "FAIL" and _ERROR not in trial.user_attrs


def suggest(trial: optuna.Trial, key: str, space: SearchSpace) -> Any:
    """A value of the key, as the study proposes."""
    range_ = space.searched[key]
    if isinstance(range_, Choice):
        return trial.suggest_categorical(key, range_.values)
    if range_.is_whole:
        return trial.suggest_int(key, int(range_.low), int(range_.high), log=range_.is_log)
    return trial.suggest_float(key, range_.low, range_.high, log=range_.is_log)


def _run(
    study: optuna.Study, trial: optuna.Trial, workspace: Workspace, overrides: list[str], conf: Path | None
) -> None:
    import optuna
    from optuna.trial import TrialState

    try:
        configuration = load_configuration(overrides, conf)
        watch = _Watch(trial, CHOSEN_BY)
        fitting.tune(build_features(workspace, configuration, Silent()), configuration, watch)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except InputError as error:
        # Such as a loss that is no number under a learning rate that is too high: other settings may do.
        trial.set_user_attr(_ERROR, str(error))
        study.tell(trial, state=TrialState.FAIL)
        if all(_ERROR in other.user_attrs for other in _ended(study)) and len(_ended(study)) >= _NUM_UNCUT:
            raise
    else:
        study.tell(trial, max(watch.values))


class _Watch(Silent):
    """Hears each epoch's eval metric, and stops a trial that does worse than most did by then."""

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self._trial, self._metric = trial, metric
        self.values: list[float] = []

    def metric(self, step: int, metric: str, value: float) -> None:
        """Ask whether to go on, when the metric is the one that is searched by."""
        import optuna

        if metric != self._metric:
            return
        self.values.append(value)
        self._trial.report(value, step)
        if self._trial.should_prune():
            raise optuna.TrialPruned


def _told(study: optuna.Study, settings: Mapping[str, Any]) -> str:
    values = [trial.value for trial in _ended(study) if trial.value is not None]
    best = f"best so far {max(values):.4f}; " if values else ""
    return best + ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in settings.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _value(trial: optuna.trial.FrozenTrial) -> float | None:
    if trial.value is not None and math.isfinite(trial.value):
        return trial.value
    return max(trial.intermediate_values.values(), default=None)


def _searched_for(base: Configuration) -> str:
    """What a trial's value is, the higher the better."""
    found = f"{base.training.metric}, mean of both counts"
    error = RATING_METRIC[base.training.rating_loss]
    said = {
        "retrieval": found,
        "ranking": f"minus {error}",
        "multitask": f"{found}, minus {error}, by the tasks' weights",
    }
    return f"{said[base.model.model_type]}, on the eval period"


def _result(study: optuna.Study, folder: Path, base: Configuration, space: SearchSpace) -> SearchResult:
    from optuna.trial import TrialState

    trials = [
        TrialResult(
            number=place,
            state=trial.state.name.lower(),
            value=_value(trial),
            settings=dict(trial.params),
            num_epochs=len(trial.intermediate_values),
            error=trial.user_attrs.get(_ERROR, ""),
        )
        for place, trial in enumerate(_ended(study))
    ]
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE.name.lower()]
    if not whole:
        raise InputError(f"None of {len(trials)} trials ran to its end; allow more with --num-trials.")
    best = max(whole, key=lambda trial: trial.value or -math.inf)
    overrides = [*space.fixed, *(f"{key}={value}" for key, value in best.settings.items())]
    metric = _searched_for(base)
    described = {
        "metric": metric,
        "best": best.number,
        "overrides": overrides,
        "trials": [
            {
                "number": t.number, "state": t.state, "value": t.value, "num_epochs": t.num_epochs, "error": t.error,
                "settings": dict(t.settings),
            }
            for t in trials
        ],
    }  # fmt: skip
    write_json(folder / TRIALS, described)
    return SearchResult(folder, metric, trials, best, overrides)
