"""Lines and a model with a rating head in, steps of training and the errors of its predictions out.

Legend: B questions, P lines of a step, T targets, N products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from endcap.contracts.configuration import ModelConfig, TrainingConfig
from endcap.contracts.errors import InputError
from endcap.evaluation.predictions import auc, errors
from endcap.evaluation.rating import Line
from endcap.models.rating import OwnLines, RatedTowers, RatedTwoTower, TargetMoments
from endcap.training.batches import BatchOrder
from endcap.training.data import Catalog, Questions
from endcap.training.devices import all_moved, autocast, history_moved, moved
from endcap.training.distributed import ranks
from endcap.training.rating_data import Rated, RatedPeriod
from endcap.training.state import State
from endcap.training.trainer import Trainer, encode_products

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

RATING_METRIC: Final = {"mse": "rmse", "huber": "rmse", "bce": "logloss", "listwise": "listwise"}
"""Eval metric that chooses the best epoch, the lower the better, by the loss."""
_SCORE_CHUNK: Final = 256


def rating_loss(settings: TrainingConfig, score_P: Tensor, target_P: Tensor, question_P: Tensor) -> Tensor:
    """Mean loss of a step's lines: of standardised targets, for `bce` of targets between 0 and 1."""
    if settings.rating_loss == "huber":
        return torch.nn.functional.huber_loss(score_P, target_P, delta=settings.huber_delta)
    if settings.rating_loss == "bce":
        return torch.nn.functional.binary_cross_entropy_with_logits(score_P, target_P)
    if settings.rating_loss == "listwise":
        return _listwise(score_P, target_P, question_P)
    return torch.nn.functional.mse_loss(score_P, target_P)


def _listwise(score_P: Tensor, target_P: Tensor, question_P: Tensor) -> Tensor:
    """Cross-entropy between the softmax of a question's targets and that of its scores, mean over questions of two lines up.

    (ListNet's top-one probabilities, Cao et al., ICML 2007.)
    """
    num_B = torch.bincount(question_P)
    asked_P = num_B[question_P] > 1
    if not bool(asked_P.any()):
        return score_P.sum() * 0.0
    lost_P = torch.exp(_log_softmax(target_P, question_P)) * _log_softmax(score_P, question_P)
    return -lost_P[asked_P].sum() / (num_B > 1).sum()


def _log_softmax(x_P: Tensor, question_P: Tensor) -> Tensor:
    num_questions = int(question_P.max()) + 1
    top_B = x_P.new_full((num_questions,), -torch.inf).scatter_reduce(0, question_P, x_P.detach(), "amax")
    shifted_P = x_P - top_B[question_P]
    sum_B = x_P.new_zeros(num_questions).index_add(0, question_P, torch.exp(shifted_P))
    return shifted_P - torch.log(sum_B)[question_P]


class RatingTask:
    """The loss of a rating head on the lines of some questions of one day."""

    def __init__(
        self, model: RatedTowers, settings: TrainingConfig, catalog: Catalog, rated: Rated, rng: np.random.Generator
    ) -> None:
        self._model, self._settings, self._catalog = model, settings, catalog
        self._data, self._rng = rated.train, rng
        self._moments = rated.moments
        self._ranks, self._device = ranks(), next(model.parameters()).device
        if settings.rating_loss == "bce":
            low, high = (float(rated.train.target.values.min()), float(rated.train.target.values.max()))
            if low < 0 or high > 1:
                raise InputError(
                    f"training.rating_loss=bce takes a target between 0 and 1; {rated.target.column} lies between {low:g} and "
                    f"{high:g}. Take mse, huber or listwise, or name another column in features.target."
                )
        usable = np.flatnonzero(np.diff(self._data.item.offsets) > 0)
        self.order = BatchOrder(self._data.questions.day, usable, settings.batch_size, rng)

    def standardised(self, learned_P: Tensor) -> Tensor:
        """Learned targets as the head gives them: a probability stays one."""
        if self._settings.rating_loss == "bce":
            return learned_P
        return (learned_P - self._moments.mean) / self._moments.std

    def loss(self, rows: IntArray) -> tuple[Tensor, dict[str, Tensor]]:
        """This process's part of the mean over the lines, and the columns that it was made of."""
        settings, data, rng, among = self._settings, self._data, self._rng, self._ranks
        device, part = self._device, among.part(len(rows))
        hide_id = (rng.random(len(rows)) < settings.id_dropout)[part]
        hide_history = (rng.random(len(rows)) < settings.history_dropout)[part]
        hide_profile = (rng.random(len(rows)) < settings.profile_dropout)[part]
        day, rows = int(data.questions.day[rows[0]]), rows[part]
        tensors, history = data.questions.batch(rows, hide_id, hide_history, hide_profile)
        lengths = data.item.lengths(rows)
        item_P = data.item.take(rows, lengths)
        question_P = torch.repeat_interleave(torch.from_numpy(lengths))
        own = _hidden(data.own(rows, lengths), torch.from_numpy(hide_history)[question_P])
        # What is asked of and what histories hold, as rows of one small catalog.
        named = [torch.zeros(1, dtype=torch.int64), item_P, *([] if history is None else [history.item_E])]
        item_R = among.union(named)
        columns = self._catalog.on(day, item_R)
        hidden_R = torch.from_numpy(rng.random(len(item_R)) < settings.item_id_dropout)
        id_column = self._catalog.id_column
        columns[id_column] = torch.where(hidden_R, 0, columns[id_column])
        if history is not None:
            history = history._replace(item_E=torch.searchsorted(item_R, history.item_E))
        tensors, history = all_moved(tensors, device), history_moved(history, device)
        place_P, question_P = moved(torch.searchsorted(item_R, item_P), device), moved(question_P, device)
        with autocast(settings, device):
            products = encode_products(self._model, columns, among, device)
            query_BD = self._model.query_tower(tensors, products.base_ND, history)
            asked = type(products)(*(torch.nn.functional.embedding(place_P, part) for part in products))
            score_P = self._model.rate(tensors, query_BD, question_P, asked, own.on(device)).float()
        target_P = moved(self.standardised(data.target.take(rows, lengths)), device)
        return self._part_of_mean(score_P, target_P, question_P), {**tensors, **columns}

    def _part_of_mean(self, score_P: Tensor, target_P: Tensor, question_P: Tensor) -> Tensor:
        """The mean loss of this process's lines, by their share of all that count."""
        if self._ranks.is_alone:
            return rating_loss(self._settings, score_P, target_P, question_P)
        num = (torch.bincount(question_P) > 1).sum() if self._settings.rating_loss == "listwise" else len(score_P)
        own = torch.tensor(float(num), dtype=torch.float64)
        total = float(self._ranks.sum(own))
        if not own:  # all take part in the gradients, those too that have nothing to say
            return score_P.sum() * 0.0
        return rating_loss(self._settings, score_P, target_P, question_P) * (float(own) / total)


def _hidden(own: OwnLines, hidden_P: Tensor) -> OwnLines:
    return OwnLines(
        own.count_P.masked_fill(hidden_P, 0.0),
        own.age_days_P.masked_fill(hidden_P, 0.0),
        own.last_P.masked_fill(hidden_P, torch.nan),
    )


class RatingTrainer(Trainer):
    """Trains the rating head and the towers on lines alone."""

    def __init__(
        self, model: RatedTowers, settings: TrainingConfig, catalog: Catalog, rated: Rated, end_us: int, seed: int
    ) -> None:
        super().__init__(model, settings, catalog, rated.train.questions, end_us, seed)
        assert isinstance(self._forward, RatedTowers)  # noqa: S101 - it is `model`, or a view of it
        self._task = RatingTask(self._forward, settings, catalog, rated, self._rng)
        self._order = self._task.order

    def _loss_of(self, rows: IntArray) -> tuple[Tensor, dict[str, Tensor]]:
        return self._task.loss(rows)


class MultitaskTrainer(Trainer):
    """Each step adds the loss of a batch of questions and that of a batch of lines, on the same towers."""

    def __init__(
        self,
        model: RatedTowers,
        config: ModelConfig,
        settings: TrainingConfig,
        catalog: Catalog,
        questions: Questions,
        rated: Rated,
        end_us: int,
        seed: int,
    ) -> None:
        super().__init__(model, settings, catalog, questions, end_us, seed)
        self._config = config
        self._rated_model = model
        self._line_rng = np.random.default_rng(seed + 1)
        assert isinstance(self._forward, RatedTowers)  # noqa: S101 - it is `model`, or a view of it
        self._task = RatingTask(self._forward, settings, catalog, rated, self._line_rng)

    def _loss_of(self, rows: IntArray) -> tuple[Tensor, dict[str, Tensor]]:
        config = self._config
        retrieval, tensors = super()._loss_of(rows)
        rating, others = self._task.loss(self._next_lines())
        variances = self._rated_model.task_log_variance_2
        if variances is None:
            loss = config.retrieval_weight * retrieval + config.ranking_weight * rating
        else:
            # A classification's loss over its variance, a regression's over twice its own, and half of both logs.
            share = 1.0 if self._settings.rating_loss in ("bce", "listwise") else 0.5
            loss = (
                torch.exp(-variances[0]) * retrieval
                + share * torch.exp(-variances[1]) * rating
                + variances.sum() / (2 * self._ranks.num)
            )
        return loss, {**tensors, **{f"line {name}": x for name, x in others.items()}}

    def _next_lines(self) -> IntArray:
        """Of passes over the lines, which begin and end apart from those over the questions."""
        order = self._task.order
        rows = order.take() if order.is_under_way else None
        while rows is None:
            order.begin()
            rows = order.take()
        return rows

    def state(self) -> State:
        """Everything that the steps to come depend on."""
        found = super().state()
        found.values["lines"] = self._task.order.state()
        return found

    def restore(self, found: State) -> None:
        """Go on where the state was taken. Raises ArtifactError when it is of another model."""
        self._task.order.restore(found.values["lines"])
        super().restore(found)

    def _streams(self) -> Mapping[str, np.random.Generator | torch.Generator]:
        return {**super()._streams(), "lines": self._line_rng}


@torch.no_grad()
def predict(model: RatedTwoTower, catalog: Catalog, period: RatedPeriod) -> FloatArray:
    """Standardised predictions of the period's lines, in order."""
    model.eval()
    device = next(model.parameters()).device
    base_ND = model.learned_products(all_moved(catalog.on(period.day), device)).base_ND
    rated = period.rated
    parts: list[Tensor] = []
    for start in range(0, len(rated.questions), _SCORE_CHUNK):
        rows = np.arange(start, min(start + _SCORE_CHUNK, len(rated.questions)))
        tensors, history = rated.questions.batch(rows)
        tensors = all_moved(tensors, device)
        queries = model.ask(tensors, base_ND, history_moved(history, device))
        lengths = rated.item.lengths(rows)
        question_P = moved(torch.repeat_interleave(torch.from_numpy(lengths)), device)
        place = slice(int(rated.item.offsets[rows[0]]), int(rated.item.offsets[rows[-1] + 1]))
        asked = all_moved({name: values[place] for name, values in period.product.items()}, device)
        own = rated.own(rows, lengths).on(device)
        parts.append(model.rate(tensors, queries, question_P, model.learned_products(asked), own).cpu())
    return torch.cat(parts).double().numpy()


def evaluate_rating(
    model: RatedTwoTower, settings: TrainingConfig, catalog: Catalog, rated: Rated, period: RatedPeriod
) -> dict[str, float]:
    """Errors over the period's lines, as learned and in the shop's own units within the clip.

    For `bce` it is told too how good the probabilities are.

    Scores of `listwise` have no scale: they are brought to the target's by a straight line first, and
    `listwise` is their loss.
    """
    score = predict(model, catalog, period)
    learned = learned_scale(settings, rated.moments)(score)
    target = period.rated.target.values.double().numpy()
    found: dict[str, float] = {}
    if settings.rating_loss == "listwise":
        question_P = torch.from_numpy(
            np.repeat(np.arange(len(period.rated.questions)), np.diff(period.rated.item.offsets))
        )
        standardised_P = torch.from_numpy((target - rated.moments.mean) / rated.moments.std)
        found["listwise"] = float(_listwise(torch.from_numpy(score), standardised_P, question_P))
        learned = Line.fit(learned, target).apply(learned)
    as_learned = errors(target, learned)
    own = errors(rated.target.inverse(target), rated.target.inverse(learned))
    found |= {"rmse": as_learned.rmse, "mae": as_learned.mae, "rmse_own_units": own.rmse, "mae_own_units": own.mae}
    if settings.rating_loss == "bce":
        # Of targets between 0 and 1 the share that happened, so that 0.3 counts as three in ten.
        kept = np.clip(learned, 1e-15, 1 - 1e-15)
        found["logloss"] = float(-(target * np.log(kept) + (1 - target) * np.log1p(-kept)).mean())
        if np.isin(target, (0, 1)).all() and 0 < target.mean() < 1:
            found["auc"] = auc(target, learned)
    return found


def learned_scale(settings: TrainingConfig, moments: TargetMoments) -> Callable[[FloatArray], FloatArray]:
    """What turns the head's predictions into the learned target; for `bce` into probabilities."""
    if settings.rating_loss == "bce":
        return lambda score: np.asarray(1 / (1 + np.exp(-score)), np.float64)
    mean, std = moments
    return lambda score: np.asarray(mean + std * score, np.float64)
