"""Questions, a catalog and a model in, steps of training out: what is hidden, what is drawn, what is learned.

Legend: B questions, E entries of their histories, T targets, N products, R products of a step, D any width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from endcap.contracts.configuration import TrainingConfig
from endcap.contracts.errors import InputError
from endcap.models.encoders import BatchNorm, penalty
from endcap.models.segments import RaggedSegments
from endcap.models.towers import History, Products, Towers
from endcap.training import state
from endcap.training.batches import BatchOrder
from endcap.training.compiling import compiled
from endcap.training.data import Catalog, Questions, weights_of
from endcap.training.devices import CPU, all_moved, autocast, history_moved
from endcap.training.distributed import Ranks, Shared, ranks
from endcap.training.losses import LOSSES, Negatives, NegativeSampler, Scored, Targets
from endcap.training.optimizers import Optimizers, rate_factor
from endcap.training.state import State

IntArray = npt.NDArray[np.int64]


class Trainer:
    """A member, its running average, optimizer and random streams."""

    def __init__(
        self, model: Towers, settings: TrainingConfig, catalog: Catalog, questions: Questions, end_us: int, seed: int
    ) -> None:
        """`end_us` is the end of the training period, from which questions age."""
        for table in model.modules():
            if isinstance(table, nn.Embedding) and table.num_embeddings > settings.sparse_rows:
                table.sparse = True
        self.average = copy.deepcopy(model) if settings.weight_average else model
        self._model, self._settings, self._catalog, self._questions = model, settings, catalog, questions
        self._forward = compiled(model) if settings.compile else model
        self._ranks, self._device, self._seed = ranks(), next(model.parameters()).device, seed
        if not self._ranks.is_alone:
            for norm in model.modules():
                if isinstance(norm, BatchNorm):
                    norm.sum_across = self._ranks.sum
        self._share_tables()
        self._statistics = _statistics(self.average, model)
        self._weights = weights_of(questions, settings.half_life_days, end_us)
        self._rng = np.random.default_rng(seed)
        counts = torch.bincount(questions.targets.values, minlength=catalog.num_items + 1)
        self._generator = torch.Generator().manual_seed(seed)
        kind = "in_batch" if settings.loss == "in_batch" else settings.negatives
        self._sampler = NegativeSampler(counts, settings.num_negatives, self._generator, kind, settings.num_hard)
        self._loss = LOSSES[settings.loss]
        self._optimizers = Optimizers(model, settings)
        lengths = questions.targets.lengths(np.arange(len(questions)))
        usable = np.flatnonzero(lengths > 0)
        if not len(usable):
            raise InputError(
                "No question of the training period has a product that the catalog knows: there is nothing to learn from. "
                "Check the split, and that purchases and catalog use the same product ids."
            )
        self._order = BatchOrder(questions.day, usable, settings.batch_size, self._rng)
        self._step = _Step(model, self._part_of_loss)
        self._shared = Shared(self._step, self._ranks, self._device)
        self._num_steps, self._total = 0, 0.0
        self.losses: list[float] = []
        """Of every step so far."""

    def run_epoch(
        self, progress: Callable[[int, int, str], None], after_step: Callable[[], None] | None = None
    ) -> float:
        """One pass in random order, or what is left of it; returns the mean loss.

        `after_step` may raise to leave the pass, which another call goes on with. Raises InputError when a loss is no
        number.
        """
        self._model.train()
        order = self._order
        if not order.is_under_way:
            order.begin()
            self._total = 0.0
        self._num_steps = self._num_steps or len(order) * self._settings.num_epochs
        while (rows := order.take()) is not None:
            self._total += self._run_step(rows)
            if order.position < len(order):
                progress(order.position, len(order), f"loss {self._total / order.position:.3f}")
            if after_step is not None:
                after_step()
        mean = self._total / max(len(order), 1)
        order.end()
        return mean

    def state(self) -> State:
        """Everything that the steps to come depend on."""
        found = State(
            {"losses": torch.tensor(self.losses, dtype=torch.float64)},
            {"num_steps": self._num_steps, "total": self._total, "order": self._order.state()},
        )
        found.put("weights", state.of_module(self._model))
        if self.average is not self._model:
            found.put("average", state.of_module(self.average, without=self._model))
        found.put("optimizers", state.of_optimizers(self._optimizers.each))
        found.put("streams", state.of_random_streams(self._streams()))
        return found

    def restore(self, found: State) -> None:
        """Go on where the state was taken. Raises ArtifactError when it is of another model."""
        state.restore_module(self._model, found.part("weights"))
        if self.average is not self._model:
            state.restore_module(self.average, found.part("average"))
        state.restore_optimizers(self._optimizers.each, found.part("optimizers"))
        self.losses = found.tensors["losses"].tolist()
        self._num_steps, self._total = int(found.values["num_steps"]), float(found.values["total"])
        self._order.restore(found.values["order"])
        state.restore_random_streams(self._streams(), found.part("streams"))

    def _streams(self) -> Mapping[str, np.random.Generator | torch.Generator]:
        return {"steps": self._rng, "negatives": self._generator}

    def _run_step(self, rows: IntArray) -> float:
        if not self._ranks.is_alone:  # parts of one batch that drop alike would drop less by chance
            entropy = (self._seed, len(self.losses), self._ranks.rank)
            torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
        part = self._shared(rows)
        # Of all processes, so that they go on or stop together.
        loss = float(self._ranks.sum(part.detach()))
        if not np.isfinite(loss):
            day = int(self._questions.day[rows[0]])
            raise InputError(self._what_is_no_number(loss, day, len(rows), self._step.tensors))
        self._optimizers.zero_grad()
        self._shared.backward(part)
        self._optimizers.step(rate_factor(self._settings, len(self.losses), self._num_steps))
        self.losses.append(loss)
        self._move_average()
        return loss

    def _part_of_loss(self, rows: IntArray) -> tuple[Tensor, dict[str, Tensor]]:
        """What this process's part of the questions adds to the loss of a step, and the columns that it was made of."""
        loss, tensors = self._loss_of(rows)
        weights_cost = penalty(self._model)
        return loss if weights_cost is None else loss + weights_cost / self._ranks.num, tensors

    def _loss_of(self, rows: IntArray) -> tuple[Tensor, dict[str, Tensor]]:
        """The part of the loss of some questions of one day, and the columns that it was made of."""
        settings, part = self._settings, self._ranks.part(len(rows))
        hide_id = self._rng.random(len(rows)) < settings.id_dropout
        hide_history = self._rng.random(len(rows)) < settings.history_dropout
        hide_profile = self._rng.random(len(rows)) < settings.profile_dropout
        own = rows[part]
        tensors, history = self._questions.batch(own, hide_id[part], hide_history[part], hide_profile[part])
        lengths = self._questions.targets.lengths(own)
        targets = Targets(
            item_T=self._questions.targets.take(own, lengths),
            question_T=torch.repeat_interleave(torch.from_numpy(lengths)),
            weight_B=self._weights[torch.from_numpy(own)],
            num_all=len(rows),
        )
        hidden_N = torch.from_numpy(self._rng.random(self._catalog.num_items + 1) < settings.item_id_dropout)
        unsold_N = None
        if settings.new_item_dropout:
            unsold_N = torch.from_numpy(self._rng.random(self._catalog.num_items + 1) < settings.new_item_dropout)
            hidden_N = hidden_N | unsold_N
        bought_T = self._ranks.gather_any(targets.item_T)
        negatives = self._sampler.draw(bought_T)
        day = int(self._questions.day[rows[0]])
        columns, history, targets, negatives = self._columns(
            day, hidden_N, unsold_N, history, targets, negatives, bought_T
        )
        tensors, history = all_moved(tensors, self._device), history_moved(history, self._device)
        with autocast(settings, self._device):
            products = encode_products(self._forward, columns, self._ranks, self._device)
            query_BD, repeat_E = self._forward.query(tensors, products, history)
        scored = _score_entries(products, query_BD.float(), history, None if repeat_E is None else repeat_E.float())
        loss = self._loss(scored, targets.on(self._device), negatives.on(self._device))
        return loss, {**tensors, **columns}

    def _columns(
        self,
        day: int,
        hidden_N: Tensor,
        unsold_N: Tensor | None,
        history: History | None,
        targets: Targets,
        negatives: Negatives,
        bought_T: Tensor,
    ) -> tuple[dict[str, Tensor], History | None, Targets, Negatives]:
        """Product columns of a step, and its products as rows of them.

        Of a large catalog only the products that the step's questions have, bought (`bought_T`) or drew are encoded; row 0
        stays the unknown one.
        """
        id_column = self._catalog.id_column
        if self._catalog.num_items <= self._settings.whole_catalog:
            columns = self._catalog.on(day)
            columns[id_column] = torch.where(hidden_N, 0, columns[id_column])
            return self._catalog.unsold(columns, unsold_N), history, targets, negatives
        named = [torch.zeros(1, dtype=torch.int64), bought_T, negatives.item_S]
        if history is not None:
            named.append(history.item_E)
        item_R = self._ranks.union(named)
        columns = self._catalog.on(day, item_R)
        columns[id_column] = torch.where(hidden_N[item_R], 0, columns[id_column])
        columns = self._catalog.unsold(columns, None if unsold_N is None else unsold_N[item_R])
        if history is not None:
            history = history._replace(item_E=torch.searchsorted(item_R, history.item_E))
        targets = replace(targets, item_T=torch.searchsorted(item_R, targets.item_T))
        return columns, history, targets, replace(negatives, item_S=torch.searchsorted(item_R, negatives.item_S))

    def _what_is_no_number(self, loss: float, day: int, num_questions: int, tensors: dict[str, Tensor]) -> str:
        numbers = {name: x for name, x in tensors.items() if x.is_floating_point() and x.numel()}
        bad = sorted(name for name, x in numbers.items() if not torch.isfinite(x).all())
        if bad:
            found = f"columns with values that are no numbers: {', '.join(bad)}"
        else:
            weight, name = max((_largest(x), name) for name, x in self._model.named_parameters())
            value, column = max((_largest(x), name) for name, x in numbers.items()) if numbers else (0.0, "none")
            found = f"weights up to {weight:.3g} (in {name}) and values up to {value:.3g} (in column {column})"
        return (
            f"The loss is {loss:g} at step {len(self.losses) + 1}, in a batch of {num_questions} questions of "
            f"{np.datetime64(day, 'D')}; found {found}. Clip or log such columns in the FeatureConfig, lower "
            "training.learning_rate, or set training.max_gradient_norm=1."
        )

    def _share_tables(self) -> None:
        """Tables with sparse gradients have no average of their own: it would touch every row at every step."""
        if self.average is self._model:
            return
        for mean, module in zip(self.average.modules(), self._model.modules(), strict=True):
            if isinstance(module, nn.Embedding) and module.sparse:
                assert isinstance(mean, nn.Embedding)  # noqa: S101 - a copy has the same modules
                mean.weight = module.weight

    def _move_average(self) -> None:
        if self.average is self._model:
            return
        # Early on the average covers fewer steps, so that it doesn't remember the random start.
        keep = min(self._settings.weight_average, len(self.losses) / (len(self.losses) + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self._model.parameters(), strict=True):
                if mean is not value:
                    mean.lerp_(value, 1 - keep)
            for known, own in self._statistics:
                known.copy_(own)


class _Step(nn.Module):
    """The computing of a step as a module of its own, so that what sums gradients sees one call."""

    def __init__(self, model: nn.Module, loss_of: Callable[[IntArray], tuple[Tensor, dict[str, Tensor]]]) -> None:
        super().__init__()
        self.model = model
        self._loss_of = loss_of
        self.tensors: dict[str, Tensor] = {}
        """What the last loss was made of."""

    def forward(self, rows: IntArray) -> Tensor:
        """This process's part of the loss."""
        loss, self.tensors = self._loss_of(rows)
        return loss


def encode_products(model: Towers, columns: dict[str, Tensor], among: Ranks, device: torch.device = CPU) -> Products:
    """What the item tower says of a step's products: each process encodes its part, and all get every vector."""
    num_rows = len(next(iter(columns.values())))
    part = among.part(num_rows)
    own = columns if among.is_alone else {name: values[part] for name, values in columns.items()}
    products = model.products(all_moved(own, device))
    if among.is_alone:
        return Products(*(x.float() for x in products))
    widths = [x.shape[1] for x in products]
    all_RD = among.gather(torch.cat([x.float() for x in products], 1), num_rows)
    return Products(*(x.contiguous() for x in torch.split(all_RD, widths, 1)))


def _statistics(average: nn.Module, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """What batch norms know of the rows so far, which is an average already."""
    pairs = zip(average.modules(), model.modules(), strict=True)
    norms = [(mean, own) for mean, own in pairs if isinstance(own, nn.BatchNorm1d) and mean is not own]
    return [both for mean, own in norms for both in zip(mean.buffers(), own.buffers(), strict=True)]


def _score_entries(products: Products, query_BD: Tensor, history: History | None, repeat_E: Tensor | None) -> Scored:
    if not isinstance(history, History) or not isinstance(history.segments, RaggedSegments):
        empty = torch.zeros(0, dtype=torch.int64, device=query_BD.device)
        return Scored(query_BD, products.vector_ND, empty, empty, query_BD.new_zeros(0))
    question_E = history.segments.question_E
    vector_ED = torch.nn.functional.embedding(history.item_E, products.vector_ND)
    score_E = (torch.nn.functional.embedding(question_E, query_BD) * vector_ED).sum(1)
    if repeat_E is not None:
        score_E = score_E + repeat_E
    return Scored(query_BD, products.vector_ND, history.item_E, question_E, score_E)


def _largest(x: Tensor) -> float:
    """The largest size of any value; infinity where one is no number."""
    return float(torch.nan_to_num(x.detach().abs(), nan=torch.inf).max()) if x.numel() else 0.0
