"""An exported model and the test period in, its comparison with the baselines, a verdict and a report out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts.configuration import Configuration, EvaluationConfig
from endcap.contracts.release import Blessing, Lineage, Retrieval, Tensor
from endcap.contracts.reporting import Reporter
from endcap.evaluation.cold_items import ColdItems
from endcap.evaluation.compare import Comparison, SystemRankings, compare
from endcap.evaluation.customers import Counting, HeldOutCustomers
from endcap.evaluation.evidence import (
    BoughtProduct,
    CustomerExample,
    Epoch,
    Evidence,
    RecommendedProduct,
    TrainingHistory,
)
from endcap.evaluation.gate import GateEvidence, Thresholds, judge
from endcap.evaluation.kept import keep, kept_tables
from endcap.evaluation.ladder import LadderRow
from endcap.evaluation.metrics import DEPTH
from endcap.evaluation.rating import RatingComparison
from endcap.evaluation.report import ReportPaths, write_report
from endcap.features.dataset import FeatureTables
from endcap.features.point_in_time import DAY_US
from endcap.features.split import EVAL, PERIOD, Split
from endcap.flows.auc import aucs_on_test
from endcap.flows.baselines import PurchasePeriods, TunedBaseline, climb, rank_baselines
from endcap.flows.champion import beside_champion
from endcap.flows.cold_items import judge_cold_items
from endcap.flows.evidence import Gathered
from endcap.flows.scoring import ExportedModel
from endcap.flows.slicing import slices_of
from endcap.releases.bundle import Release
from endcap.training.loop import MEAN, Trained
from endcap.training.rating import RATING_METRIC
from endcap.workspace.layout import Workspace

IntArray = npt.NDArray[np.int64]

_NUM_EXAMPLES = 3
_NUM_SHOWN = 10
_NUM_BOUGHT_SHOWN = 6


@dataclass(frozen=True)
class Judged:
    """What the test period said of a model."""

    comparison: Comparison | None
    """Of recommendations; None where the release makes none."""
    blessing: Blessing
    examples: Sequence[CustomerExample] = ()
    kept: tuple[pa.Table, pa.Table] | None = None
    """The candidate's rankings and the truth, as `evaluation.kept` writes them into a run's folder."""
    ladders: Mapping[Counting, Sequence[LadderRow]] = field(default_factory=dict)
    tuned: Sequence[TunedBaseline] = ()
    cold_items: ColdItems | None = None
    """Products that were first sold in the test period; None where no customer bought one."""

    ratings: RatingComparison | None = None
    """Of predicted targets; None where the release predicts none."""

    def flat_metrics(self) -> dict[str, float]:
        """All values of the candidate, for manifests."""
        return self._recommended() | self._rated()

    def tell(self, report: Reporter) -> None:
        """Report all values of the candidate under the names that an epoch's have: all purchases go without saying."""
        told = {name.removeprefix(f"{Counting.ALL_PURCHASES}/"): value for name, value in self._recommended().items()}
        told |= {f"rating/{name}" if name in told else name: value for name, value in self._rated().items()}
        for name, value in told.items():
            report.metric(0, name, value)

    def _recommended(self) -> dict[str, float]:
        recommended = self.comparison.flat_metrics() if self.comparison is not None else {}
        return recommended | (self.cold_items.flat_metrics() if self.cold_items else {})

    def _rated(self) -> dict[str, float]:
        return self.ratings.flat_metrics() if self.ratings is not None else {}


def both(blessings: Sequence[Blessing]) -> Blessing:
    """One verdict of several: each has to bless; the reasons of those that don't come first."""
    failed = [reason for one in blessings if one.status != "BLESSED" for reason in one.reasons]
    if failed:
        return Blessing("NOT_BLESSED", failed)
    return Blessing("BLESSED", [reason for one in blessings for reason in one.reasons])


@dataclass(frozen=True)
class _Numbered:
    """Purchases as numbers: products of the catalog first, in its order; users in the order of their ids."""

    purchases: pa.Table
    users: IntArray
    items: IntArray
    baskets: IntArray
    moments: IntArray
    user_ids: list[str]
    other_item_ids: list[str]


def judge_on_test(
    workspace: Workspace,
    tables: FeatureTables,
    configuration: Configuration,
    release_folder: Path,
    retrieval: Retrieval,
    inputs: list[Tensor],
    champion: Release | None = None,
    gathered: Gathered | None = None,
) -> Judged:
    """Rank for every customer of the test period with the release's own files, beside the baselines, and judge.

    A `champion` answers the same questions with its own files, and must be beaten too. What was `gathered` beside is judged
    along with it.
    """
    model = ExportedModel(release_folder, retrieval, inputs)
    item_ids = model.index.ids_of(np.arange(model.index.num_items))
    numbered = _number(tables, item_ids)
    _, before = tables.purchases_before("test")
    customers = HeldOutCustomers.from_purchases(
        earlier_user_nums=numbered.users[before],
        earlier_item_nums=numbered.items[before],
        earlier_basket_nums=numbered.baskets[before],
        test_user_nums=numbered.users[~before],
        test_item_nums=numbered.items[~before],
        num_items=len(item_ids),
    )
    questions = _questions(tables, numbered, customers, before)
    depth = min(DEPTH, len(item_ids))
    candidate = replace(
        model.rank("model", "the model", questions, np.arange(len(item_ids)), depth),
        aucs=aucs_on_test(model, questions, customers),
    )
    settings = configuration.evaluation
    baselines = rank_baselines(_periods(tables, numbered, len(item_ids)), customers, settings)
    names = np.array([*item_ids, *numbered.other_item_ids])
    bought = pa.table({
        "user_id": np.array(numbered.user_ids)[customers.user_nums][customers.bought.rows],
        "item_id": names[customers.bought.values],
    })  # fmt: skip
    slices = slices_of(workspace, tables, settings.slice_columns, bought)
    comparison = compare(
        candidate,
        baselines.systems,
        customers,
        seed=configuration.seed,
        num_resamples=settings.num_resamples,
        slices=slices,
    )
    beside = None
    if champion is not None:
        beside = beside_champion(
            champion,
            candidate,
            questions,
            customers,
            item_ids,
            test_start_us=tables.split.test_start_us,
            seed=configuration.seed,
            num_resamples=settings.num_resamples,
        )
    gathered = gathered or Gathered()
    found = GateEvidence(
        comparison,
        champion=beside,
        parity=gathered.parity,
        answer_time=gathered.answer_time,
        estimates=gathered.estimates,
    )
    blessing = judge(found, _thresholds(settings))
    examples = _examples(workspace, tables, numbered, customers, candidate, questions, item_ids)
    keys = [workspace.user_key(numbered.user_ids[number]) for number in customers.user_nums]
    kept = kept_tables(candidate, customers, keys, pa.array(names, pa.string()))
    ladders = climb(candidate, baselines.systems, customers, configuration)
    cold = judge_cold_items(tables, configuration, release_folder, model, questions)
    return Judged(comparison, blessing, examples, kept, ladders, baselines.tuned, cold)


def _thresholds(settings: EvaluationConfig) -> Thresholds:
    return Thresholds(
        metric=settings.metric,
        min_customers=settings.min_customers,
        min_slice_customers=settings.min_slice_customers,
        at_least=dict(settings.thresholds),
        champion_margin=settings.champion_margin,
        max_slice_loss=settings.max_slice_loss,
        max_item_slice_loss=settings.max_item_slice_loss,
        max_answer_ms=settings.max_answer_time_ms,
    )


def keep_rankings(judged: Judged, run_folder: Path) -> None:
    """Write what the candidate recommended, and the truth, into the run's folder, for `endcap compare`."""
    if judged.kept is not None:
        keep(run_folder, *judged.kept)


def report_on(
    judged: Judged,
    name: str,
    tables: FeatureTables,
    configuration: Configuration,
    lineage: Lineage,
    folder: Path,
    trained: Trained | None = None,
    timings_s: Mapping[str, float] | None = None,
) -> ReportPaths:
    """Write the report, Markdown and page, into `folder`."""
    split = tables.split
    history = None
    if trained is not None:
        metric = f"{configuration.training.metric}, mean of both counts"
        measured = f"{MEAN}/{configuration.training.metric}"
        if configuration.model.model_type == "ranking":
            metric = measured = RATING_METRIC[configuration.training.rating_loss]
        epochs = [
            Epoch(record.epoch, record.loss, {metric: record.metrics[measured]} if record.metrics else {})
            for record in trained.epochs
        ]
        history = TrainingHistory(epochs, trained.chosen_epoch, metric)
    evidence = Evidence(
        name=name,
        created_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        comparison=judged.comparison,
        ratings=judged.ratings,
        blessing=judged.blessing,
        lineage=lineage,
        history=history,
        examples=judged.examples,
        row_counts={
            "purchases to train on": split.num_train,
            "purchases in the eval period": split.num_eval,
            "purchases in the test period": split.num_test,
        },
        moments=_moments(split),
        timings_s=dict(timings_s or {}),
        metric=configuration.evaluation.metric,
        ladders=judged.ladders,
        cold_items=judged.cold_items,
        baseline_settings=[(tuned.title, tuned.counting, tuned.as_text) for tuned in judged.tuned],
    )
    return write_report(evidence, folder)


def _number(tables: FeatureTables, item_ids: list[Any]) -> _Numbered:
    purchases = tables.table("purchases")
    known = pc.index_in(purchases["item_id"], value_set=pa.array(item_ids)).fill_null(-1).to_numpy().astype(np.int64)
    others = purchases["item_id"].to_numpy(zero_copy_only=False)[known < 0]
    other_item_ids, places = np.unique(others.astype(str), return_inverse=True)
    known[known < 0] = len(item_ids) + places
    user_ids, users = np.unique(purchases["user_id"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    _, baskets = np.unique(purchases["basket_id"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    return _Numbered(
        purchases,
        users.astype(np.int64),
        known,
        baskets.astype(np.int64),
        purchases["ts_us"].to_numpy(),
        user_ids.tolist(),
        other_item_ids.tolist(),
    )


def _questions(
    tables: FeatureTables, numbered: _Numbered, customers: HeldOutCustomers, before: npt.NDArray[np.bool_]
) -> pa.Table:
    """The test questions in the order of `customers`, with all that each bought `earlier`."""
    questions = tables.table("test")
    wanted = pa.array([numbered.user_ids[number] for number in customers.user_nums])
    questions = questions.take(pc.index_in(wanted, value_set=questions["user_id"].combine_chunks()))
    order = np.argsort(numbered.users[before], kind="stable")
    users = numbered.users[before][order]
    items = numbered.purchases["item_id"].filter(pa.array(before)).take(pa.array(order)).combine_chunks()
    starts, stops = (
        np.searchsorted(users, customers.user_nums),
        np.searchsorted(users, customers.user_nums, side="right"),
    )
    earlier = [items.slice(start, stop - start).to_pylist() for start, stop in zip(starts, stops, strict=True)]
    return questions.append_column("earlier", pa.array(earlier, pa.list_(pa.string())))


def _periods(tables: FeatureTables, numbered: _Numbered, num_items: int) -> PurchasePeriods:
    _, before_eval = tables.purchases_before("eval")
    _, before_test = tables.purchases_before("test")
    return PurchasePeriods(
        user_nums=numbered.users,
        item_nums=numbered.items,
        basket_nums=numbered.baskets,
        ts_us=numbered.moments,
        num_users=len(numbered.user_ids),
        num_items=num_items,
        before_eval=before_eval,
        is_eval=np.asarray(pc.equal(numbered.purchases[PERIOD], EVAL)),
        before_test=before_test,
        eval_start_us=tables.split.eval_start_us,
        test_start_us=tables.split.test_start_us,
    )


def _examples(
    workspace: Workspace,
    tables: FeatureTables,
    numbered: _Numbered,
    customers: HeldOutCustomers,
    candidate: SystemRankings,
    questions: pa.Table,
    item_ids: list[Any],
) -> list[CustomerExample]:
    """A few customers at fixed places of the list, so that nobody has picked the pretty ones."""
    day = tables.split.test_start_us // DAY_US
    products = tables.products_on(day)
    titles = dict(zip(products["item_id"].to_pylist(), products["title"].to_pylist(), strict=True))
    examples: list[CustomerExample] = []
    for place in np.linspace(0, len(customers.user_nums) - 1, _NUM_EXAMPLES + 2)[1:-1].astype(int):
        row = questions.slice(int(place), 1).to_pylist()[0]
        bought_later = set(row["targets"])
        earlier = set(row["earlier"])
        lately = list(zip(row["user_history"], row["user_history_age_days"], row["user_history_count"], strict=True))[
            ::-1
        ][:_NUM_BOUGHT_SHOWN]
        shown = [item_ids[number] for number in candidate.all_purchases[place][:_NUM_SHOWN]]
        examples.append(
            CustomerExample(
                user_key=workspace.user_key(numbered.user_ids[customers.user_nums[place]]),
                bought_lately=[BoughtProduct(titles.get(item, item), int(age), count) for item, age, count in lately],
                recommended=[
                    RecommendedProduct(titles.get(item, item), item in bought_later, item in earlier) for item in shown
                ],
                num_bought_later=len(bought_later),
            )
        )
    return examples


def _moments(split: Split) -> dict[str, str]:
    moments = {"the data ends": _moment(split.end_us)}
    if split.kind != "time":
        return moments
    return {
        "the eval period begins": _moment(split.eval_start_us),
        "the test period begins": _moment(split.test_start_us),
    } | moments


def _moment(moment_us: int) -> str:
    return datetime.fromtimestamp(moment_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
