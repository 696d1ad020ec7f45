"""Tensors and a configuration in, trained weights and the story of the epochs out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from endcap.contracts.configuration import Configuration
from endcap.contracts.reporting import Reporter
from endcap.evaluation.metrics import AUC, DEPTH, RaggedSets, find_hits, measure
from endcap.features.fitted import FittedFeatures
from endcap.models.item_map import MapTables
from endcap.models.neighbors import NeighborTables
from endcap.models.rating import RatedTwoTower
from endcap.models.segments import RaggedSegments
from endcap.models.towers import Products
from endcap.models.two_tower import TwoTower
from endcap.training.auc import auc_of
from endcap.training.compiling import check_compiler
from endcap.training.data import Catalog, Questions
from endcap.training.devices import CPU, all_moved, device_of, history_moved
from endcap.training.distributed import ranks
from endcap.training.epochs import CHOSEN_BY, EpochRecord, Epochs, Keeping, key_of
from endcap.training.given_vectors import start_from_given_vectors
from endcap.training.rating import RATING_METRIC, MultitaskTrainer, RatingTrainer, evaluate_rating
from endcap.training.rating_data import Rated
from endcap.training.trainer import Trainer

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

NEW = "new_to_customer"
MEAN = "mean"
_SCORE_CHUNK = 256


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
    map_tables: MapTables | None = None,
    rated: Rated | None = None,
    neighbor_tables: NeighborTables | None = None,
    keeping: Keeping | None = None,
) -> Trained:
    """Train a two-tower model, with a rating head where the model type asks for one.

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
        map_tables: The item map, where the model has one.
        rated: Lines to learn ratings from, and to measure them on; of a ranking model they are all there is.
        neighbor_tables: The neighbors of products, where the model has them.
        keeping: Checkpoints to go on from and to write, and who may ask to stop.
    """
    settings = configuration.training
    device = device_of(settings, ranks().local_rank)
    check_compiler(settings, device)
    with _repeatable(configuration.seed, settings.num_threads, device):
        model, trainers = _members(
            device, configuration, fitted, catalog, questions, end_us, rated, map_tables, neighbor_tables
        )
        last_epoch = settings.num_epochs if evaluate else (num_epochs or settings.num_epochs)
        key = key_of(configuration, fitted, catalog, questions, rated, last_epoch)
        epochs = Epochs(model, trainers, last_epoch, stage, report, keeping or Keeping(), key)
        measure = None
        if evaluate is not None:
            measure = partial(_evaluate, model, configuration, catalog, evaluate, rated)
        epochs.run(measure, settings.patience)
        chosen, records = epochs.chosen_epoch, epochs.records
        said = f"{_told(configuration, records[chosen - 1])} after epoch {chosen}" if evaluate else f"{chosen} epochs"
        report.progress(stage, 1, 1, said)
        return Trained(model.to(CPU).eval(), records, chosen)


def _members(
    device: torch.device,
    configuration: Configuration,
    fitted: FittedFeatures,
    catalog: Catalog,
    questions: Questions,
    end_us: int,
    rated: Rated | None,
    map_tables: MapTables | None,
    neighbor_tables: NeighborTables | None,
) -> tuple[TwoTower, list[Trainer]]:
    """The model of the configuration's type with its weights drawn anew, and what trains each member of it.

    The model holds the members' running averages, so that it is measured as it would be released.
    """
    settings, config = configuration.training, configuration.model
    shape = (fitted.columns("buyer"), fitted.columns("product"), fitted.definition.item_id, config)
    model = (
        TwoTower(*shape, map_tables, neighbor_tables)
        if rated is None
        else RatedTwoTower(*shape, rated.moments, map_tables, neighbor_tables)
    )
    trainers: list[Trainer] = []
    for place, member in enumerate(model.members):
        start_from_given_vectors(member, fitted)  # type: ignore[arg-type]
        member.to(device)
        seed = _seed_of(configuration.seed, place)
        if rated is None:
            trainers.append(Trainer(member, settings, catalog, questions, end_us, seed))  # type: ignore[arg-type]
        elif config.model_type == "ranking":
            trainers.append(RatingTrainer(member, settings, catalog, rated, end_us, seed))  # type: ignore[arg-type]
        else:
            trainers.append(MultitaskTrainer(member, config, settings, catalog, questions, rated, end_us, seed))  # type: ignore[arg-type]
    model.members = nn.ModuleList(trainer.average for trainer in trainers)
    return model.to(device), trainers


def _seed_of(seed: int, place: int) -> int:
    """Each member's own: batches, dropout of columns and negatives differ from those of the others."""
    return seed if not place else int(np.random.SeedSequence((seed, place)).generate_state(1)[0])


def _evaluate(
    model: TwoTower, configuration: Configuration, catalog: Catalog, period: EvalPeriod, rated: Rated | None
) -> dict[str, float]:
    """All eval metrics, and what the epoch is chosen by."""
    settings, config = configuration.training, configuration.model
    metrics: dict[str, float] = {}
    if config.model_type != "ranking":
        metrics = evaluate_model(model, catalog, period)
        metrics[CHOSEN_BY] = metrics[f"{MEAN}/{settings.metric}"]
    if rated is None or rated.evaluate is None or not isinstance(model, RatedTwoTower):
        return metrics
    errors = evaluate_rating(model, settings, catalog, rated, rated.evaluate)
    if config.model_type == "ranking":
        return errors | {CHOSEN_BY: -errors[RATING_METRIC[settings.rating_loss]]}
    # Both in shares: of customers' purchases that are found, and of the target's deviation that is left unexplained.
    weights = (1.0, 1.0) if config.task_weighting == "learned" else (config.retrieval_weight, config.ranking_weight)
    left = errors[RATING_METRIC[settings.rating_loss]]
    if settings.rating_loss in ("mse", "huber"):
        left /= rated.moments.std
    chosen_by = weights[0] * metrics[CHOSEN_BY] - weights[1] * left
    # Of a probability there is an AUC too: that of recommendations keeps the plain name.
    errors = {f"rating/{name}" if name in metrics else name: value for name, value in errors.items()}
    return metrics | errors | {CHOSEN_BY: chosen_by}


def _told(configuration: Configuration, record: EpochRecord) -> str:
    """The metrics that chose the epoch, for people."""
    settings = configuration.training
    parts = []
    if configuration.model.model_type != "ranking":
        parts.append(f"{settings.metric} {record.metrics[f'{MEAN}/{settings.metric}']:.4f} (mean of both counts)")
    if configuration.model.model_type != "retrieval":
        name = RATING_METRIC[settings.rating_loss]
        parts.append(f"{name} {record.metrics[name]:.4f}")
    return ", ".join(parts)


@torch.no_grad()
def evaluate_model(model: TwoTower, catalog: Catalog, period: EvalPeriod) -> dict[str, float]:
    """Means over the eval period's customers, all products ranked.

    `METRIC` counts all purchases; `new_to_customer/METRIC` products that the customer hadn't bought before, ranked
    without those; `mean/METRIC` is the mean of the two, since a release is judged on both.
    """
    fresh = period.bought.minus(period.earlier)
    # Before the products stands the unknown one, which is never ranked.
    columns = [RaggedSets(one.offsets, one.values + 1) for one in (period.bought, fresh)]
    rankings: tuple[list[IntArray], list[IntArray]] = ([], [])
    aucs: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for is_new, rows, score_BN in _score_period(model, catalog, period):
        rankings[is_new].append(_top(score_BN, catalog.num_items))
        aucs[is_new].append(auc_of(score_BN, columns[is_new].between(rows)))
    ranked, new_ranked = (_joined(one) for one in rankings)
    auc, new_auc = (np.concatenate([np.zeros(0), *one]) for one in aucs)
    num_others = catalog.num_items - period.bought.num_below(catalog.num_items)
    every = _means(ranked, period.bought, auc, num_others)
    asked = fresh.lengths > 0
    num_others = catalog.num_items - (fresh.num_below(catalog.num_items) + period.earlier.num_below(catalog.num_items))
    new = _means(new_ranked[asked], fresh.select(asked), new_auc[asked], num_others[asked])
    return (
        every
        | {f"{NEW}/{name}": value for name, value in new.items()}
        | {f"{MEAN}/{name}": (every[name] + new[name]) / 2 for name in every}
    )


@torch.no_grad()
def rank_period(model: TwoTower, catalog: Catalog, period: EvalPeriod) -> tuple[IntArray, IntArray]:
    """Item numbers of the best products of each question, with and without those that the customer bought earlier."""
    rankings: tuple[list[IntArray], list[IntArray]] = ([], [])
    for is_new, _, score_BN in _score_period(model, catalog, period):
        rankings[is_new].append(_top(score_BN, catalog.num_items))
    return _joined(rankings[0]), _joined(rankings[1])


def _score_period(model: TwoTower, catalog: Catalog, period: EvalPeriod) -> Iterator[tuple[bool, slice, Tensor]]:
    """Scores of all products for some questions at a time, then the same with -inf for what the customer bought earlier."""
    model.eval()
    products = model.products(all_moved(catalog.on(period.day), next(model.parameters()).device))
    for start in range(0, len(period.questions), _SCORE_CHUNK):
        rows = slice(start, min(start + _SCORE_CHUNK, len(period.questions)))
        score_BN = score_all(model, products, period.questions, np.arange(rows.start, rows.stop))
        yield False, rows, score_BN
        earlier = period.earlier.between(rows)
        known = earlier.values < catalog.num_items
        places = (torch.from_numpy(earlier.rows[known]), torch.from_numpy(earlier.values[known] + 1))
        score_BN[places] = -torch.inf
        yield True, rows, score_BN


def _joined(rankings: Sequence[IntArray]) -> IntArray:
    return np.concatenate([np.zeros((0, DEPTH), np.int64), *rankings])


def score_all(model: TwoTower, products: Products, questions: Questions, rows: IntArray) -> Tensor:
    """Scores of all products, `[B, N]`, for some questions; those of the unknown product, the first, are -inf."""
    tensors, history = questions.batch(rows)
    device = products.vector_ND.device
    tensors, history = all_moved(tensors, device), history_moved(history, device)
    query_BD, repeat_E = model.query(tensors, products, history)
    score_BN = query_BD @ products.vector_ND.T
    if history is not None and repeat_E is not None and isinstance(history.segments, RaggedSegments):
        score_BN.index_put_((history.segments.question_E, history.item_E), repeat_E, accumulate=True)
    near = model.near(history)
    if history is not None and near is not None and isinstance(history.segments, RaggedSegments):
        item_EM, boost_EM = near
        score_BN.index_put_((history.segments.question_E.unsqueeze(1), item_EM), boost_EM, accumulate=True)
    score_BN[:, 0] = -torch.inf
    return score_BN


def _top(score_BN: Tensor, num_items: int) -> IntArray:
    """Item numbers, best first, padded with -1 to the depth that metrics want and where nothing is left to rank."""
    best = torch.topk(score_BN, min(DEPTH, num_items), dim=1)
    ranked: IntArray = np.where(np.isneginf(best.values.cpu().numpy()), -1, best.indices.cpu().numpy() - 1)
    return np.pad(ranked, ((0, 0), (0, DEPTH - ranked.shape[1])), constant_values=-1)


def _means(ranked: IntArray, relevant: RaggedSets, auc: FloatArray, num_irrelevant: IntArray) -> dict[str, float]:
    found = measure(find_hits(ranked, relevant), relevant.lengths, num_irrelevant=num_irrelevant) | {AUC: auc}
    return {name: float(values.mean()) if len(values) else 0.0 for name, values in found.items()}


@contextmanager
def _repeatable(seed: int, num_threads: int, device: torch.device) -> Iterator[None]:
    """Every random stream from the seed; on the processor one way to compute; afterwards the process is as it was before."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(seed)
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(device == CPU)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)
