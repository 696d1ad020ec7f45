"""Tensors and a configuration in, trained weights and the story of the epochs out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from endcap.contracts.configuration import Configuration, TrainingConfig
from endcap.contracts.reporting import Reporter
from endcap.evaluation.metrics import DEPTH, RaggedSets, find_hits, measure
from endcap.features.fitted import FittedFeatures
from endcap.models.segments import RaggedSegments
from endcap.models.two_tower import History, Products, TwoTower
from endcap.training.data import Catalog, Questions, weights_of
from endcap.training.losses import NegativeSampler, Scored, Targets, sampled_softmax

IntArray = npt.NDArray[np.int64]

NEW = "new_to_customer"
MEAN = "mean"
_WARMUP_STEPS = 50
_SCORE_CHUNK = 256


@dataclass(frozen=True)
class EpochRecord:
    """One pass: its mean loss, and the eval metrics after it (empty when there was no eval)."""

    epoch: int
    loss: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Trained:
    """A model with the best (or last) weights, the epochs, and which of them the weights are of."""

    model: TwoTower
    epochs: list[EpochRecord]
    chosen_epoch: int


@dataclass(frozen=True)
class EvalPeriod:
    """Questions to choose the epoch on, and the day whose catalog they meet.

    `bought` in the period and `earlier` are item numbers (0 is the first product of the catalog); products that the
    catalog lacks have numbers after it.
    """

    questions: Questions
    bought: RaggedSets
    earlier: RaggedSets
    day: int


@dataclass
class _Best:
    value: float = -math.inf
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


def fit_model(
    configuration: Configuration,
    fitted: FittedFeatures,
    catalog: Catalog,
    questions: Questions,
    end_us: int,
    report: Reporter,
    evaluate: EvalPeriod | None = None,
    num_epochs: int | None = None,
    stage: str = "training",
) -> Trained:
    """Train a two-tower model.

    With `evaluate`, metrics are taken after each epoch, training stops early, and the best epoch's weights are
    returned; without it, exactly `num_epochs` epochs of the same schedule are run.

    Args:
        configuration: Shape and schedule; its seed starts every random stream.
        fitted: What the questions and the catalog were transformed with.
        catalog: Products by day.
        questions: What to learn from.
        end_us: The end of the training period, from which questions age.
        report: Hears of each epoch.
        evaluate: The eval period.
        num_epochs: How many epochs to run without `evaluate`.
        stage: Name of the progress bar.
    """
    settings = configuration.training
    with _repeatable(configuration.seed, settings.num_threads):
        model = TwoTower(
            fitted.columns("buyer"), fitted.columns("product"), fitted.definition.item_id, configuration.model
        )
        trainer = _Trainer(model, settings, catalog, questions, end_us, configuration.seed)
        last_epoch = settings.num_epochs if evaluate else (num_epochs or settings.num_epochs)
        records: list[EpochRecord] = []
        best = _Best()
        for epoch in range(1, last_epoch + 1):
            loss = trainer.run_epoch(lambda done, total, note, e=epoch: report.progress(  # type: ignore[misc]
                stage, (e - 1) * total + done, last_epoch * total, f"epoch {e}  {note}"
            ))  # fmt: skip
            metrics = evaluate_model(trainer.average, catalog, evaluate) if evaluate else {}
            records.append(EpochRecord(epoch, loss, metrics))
            report.metric(epoch, "loss", loss)
            for name, value in metrics.items():
                report.metric(epoch, name, value)
            if evaluate is None:
                continue
            if metrics[f"{MEAN}/{settings.metric}"] > best.value:
                weights = {name: tensor.clone() for name, tensor in trainer.average.state_dict().items()}
                best = _Best(metrics[f"{MEAN}/{settings.metric}"], epoch, weights)
            elif epoch - best.epoch >= settings.patience:
                break
        if evaluate is not None:
            trainer.average.load_state_dict(best.weights)
        chosen = best.epoch if evaluate else last_epoch
        said = (
            f"{settings.metric} {best.value:.4f} (mean of both counts) after epoch {chosen}"
            if evaluate
            else f"{chosen} epochs"
        )
        report.progress(stage, 1, 1, said)
        return Trained(trainer.average.eval(), records, chosen)


class _Trainer:
    """Model, its running average, optimizer and random streams."""

    def __init__(
        self, model: TwoTower, settings: TrainingConfig, catalog: Catalog, questions: Questions, end_us: int, seed: int
    ) -> None:
        self.average = copy.deepcopy(model) if settings.weight_average else model
        self._model, self._settings, self._catalog, self._questions = model, settings, catalog, questions
        self._weights = weights_of(questions, settings.half_life_days, end_us)
        self._rng = np.random.default_rng(seed)
        counts = torch.bincount(questions.targets.values, minlength=catalog.num_items + 1)
        generator = torch.Generator().manual_seed(seed)
        self._sampler = NegativeSampler(counts, settings.num_negatives, generator)
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        lengths = questions.targets.lengths(np.arange(len(questions)))
        self._usable = np.flatnonzero(lengths > 0)
        self._step = 0
        self._num_steps = 0

    def run_epoch(self, progress: Callable[[int, int, str], None]) -> float:
        """One pass in random order; returns the mean loss."""
        self._model.train()
        batches = list(self._batches())
        self._num_steps = self._num_steps or len(batches) * self._settings.num_epochs
        total = 0.0
        for number, rows in enumerate(batches):
            total += self._run_step(rows)
            if number + 1 < len(batches):
                progress(number + 1, len(batches), f"loss {total / (number + 1):.3f}")
        return total / max(len(batches), 1)

    def _batches(self) -> Iterator[IntArray]:
        """Questions of one day each, shuffled within the day, days in random order."""
        days = self._questions.day[self._usable]
        batches: list[IntArray] = []
        for day in np.unique(days):
            rows = self._usable[days == day]
            self._rng.shuffle(rows)
            batches += np.array_split(rows, max(1, round(len(rows) / self._settings.batch_size)))
        for place in self._rng.permutation(len(batches)):
            yield batches[place]

    def _run_step(self, rows: IntArray) -> float:
        settings = self._settings
        hide_id = self._rng.random(len(rows)) < settings.id_dropout
        hide_history = self._rng.random(len(rows)) < settings.history_dropout
        hide_profile = self._rng.random(len(rows)) < settings.profile_dropout
        tensors, history = self._questions.batch(rows, hide_id, hide_history, hide_profile)
        columns = self._catalog.on(int(self._questions.day[rows[0]]))
        hidden = torch.from_numpy(self._rng.random(self._catalog.num_items + 1) < settings.item_id_dropout)
        columns[self._catalog.id_column] = torch.where(hidden, 0, columns[self._catalog.id_column])
        products = self._model.products(columns)
        query_BD, repeat_E = self._model.query(tensors, products, history)
        lengths = self._questions.targets.lengths(rows)
        targets = Targets(
            item_T=self._questions.targets.take(rows, lengths),
            question_T=torch.repeat_interleave(torch.from_numpy(lengths)),
            weight_B=self._weights[torch.from_numpy(rows)],
        )
        scored = _score_entries(products, query_BD, history, repeat_E)
        loss = sampled_softmax(scored, targets, self._sampler.draw())
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._step += 1
        self._move_average()
        return float(loss.detach())

    def _rate(self) -> float:
        warm = min(1.0, (self._step + 1) / _WARMUP_STEPS)
        done = min(1.0, self._step / max(self._num_steps, 1))
        return self._settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))

    def _move_average(self) -> None:
        if self.average is self._model:
            return
        # Early on the average covers fewer steps, so that it doesn't remember the random start.
        keep = min(self._settings.weight_average, self._step / (self._step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self._model.parameters(), strict=True):
                mean.lerp_(value, 1 - keep)


def _score_entries(products: Products, query_BD: Tensor, history: History | None, repeat_E: Tensor | None) -> Scored:

    if not isinstance(history, History) or not isinstance(history.segments, RaggedSegments):
        empty = torch.zeros(0, dtype=torch.int64)
        return Scored(query_BD, products.vector_ND, empty, empty, query_BD.new_zeros(0))
    question_E = history.segments.question_E
    vector_ED = torch.nn.functional.embedding(history.item_E, products.vector_ND)
    score_E = (torch.nn.functional.embedding(question_E, query_BD) * vector_ED).sum(1)
    if repeat_E is not None:
        score_E = score_E + repeat_E
    return Scored(query_BD, products.vector_ND, history.item_E, question_E, score_E)


@torch.no_grad()
def evaluate_model(model: TwoTower, catalog: Catalog, period: EvalPeriod) -> dict[str, float]:
    """Means over the eval period's customers, all products ranked.

    `METRIC` counts all purchases; `new_to_customer/METRIC` products that the customer hadn't bought before, ranked
    without those; `mean/METRIC` is the mean of the two, since a release is judged on both.
    """
    model.eval()
    products = model.products(catalog.on(period.day))
    rankings: list[IntArray] = []
    new_rankings: list[IntArray] = []
    for start in range(0, len(period.questions), _SCORE_CHUNK):
        rows = np.arange(start, min(start + _SCORE_CHUNK, len(period.questions)))
        score_BN = _score_all(model, products, period.questions, rows)
        rankings.append(_top(score_BN, catalog.num_items))
        inside = (period.earlier.rows >= start) & (period.earlier.rows < start + len(rows))
        known = inside & (period.earlier.values < catalog.num_items)
        places = (
            torch.from_numpy(period.earlier.rows[known] - start),
            torch.from_numpy(period.earlier.values[known] + 1),
        )
        score_BN[places] = -torch.inf
        new_rankings.append(_top(score_BN, catalog.num_items))
    fresh = period.bought.minus(period.earlier)
    asked = fresh.lengths > 0
    every = _means(np.concatenate(rankings), period.bought)
    new = _means(np.concatenate(new_rankings)[asked], fresh.select(asked))
    return (
        every
        | {f"{NEW}/{name}": value for name, value in new.items()}
        | {f"{MEAN}/{name}": (every[name] + new[name]) / 2 for name in every}
    )


def _score_all(model: TwoTower, products: Products, questions: Questions, rows: IntArray) -> Tensor:
    tensors, history = questions.batch(rows)
    query_BD, repeat_E = model.query(tensors, products, history)
    score_BN = query_BD @ products.vector_ND.T
    if history is not None and repeat_E is not None and isinstance(history.segments, RaggedSegments):
        score_BN.index_put_((history.segments.question_E, history.item_E), repeat_E, accumulate=True)
    score_BN[:, 0] = -torch.inf
    return score_BN


def _top(score_BN: Tensor, num_items: int) -> IntArray:
    """Item numbers, best first, padded with -1 to the depth that metrics want and where nothing is left to rank."""
    best = torch.topk(score_BN, min(DEPTH, num_items), dim=1)
    ranked: IntArray = np.where(np.isneginf(best.values.numpy()), -1, best.indices.numpy() - 1)
    return np.pad(ranked, ((0, 0), (0, DEPTH - ranked.shape[1])), constant_values=-1)


def _means(rankings: IntArray, relevant: RaggedSets) -> dict[str, float]:
    found = measure(find_hits(rankings, relevant), relevant.lengths)
    return {name: float(values.mean()) if len(values) else 0.0 for name, values in found.items()}


@contextmanager
def _repeatable(seed: int, num_threads: int) -> Iterator[None]:
    """Every random stream from the seed, one way to compute; afterwards the process computes as it did before."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(seed)
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)
