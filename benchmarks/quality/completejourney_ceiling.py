"""The Complete Journey in, how far a ranker can come on it out: boosted trees on all that is known, and what bounds them.

    python -m benchmarks.quality.completejourney_ceiling [--data FOLDER] [--json FILE]

The trees rank candidates of many sources by some fifty columns, and learn from overlapping windows as long as the test period that end
before what they are asked for. Every setting is chosen on the eval period, on which learning curves and ablations are
measured too; the test period is ranked once. Baselines are those of a training run, tuned in the same way.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lightgbm
import numpy as np
import numpy.typing as npt

from benchmarks.quality.completejourney import DATA, METRIC
from benchmarks.quality.completejourney_pairs import DEMOGRAPHICS, GROUPS, LEVELS, Grocer, Pairs, pairs_of
from benchmarks.report import Report
from endcap.contracts.configuration import EvaluationConfig
from endcap.contracts.errors import InputError
from endcap.evaluation.customers import Counting, HeldOutCustomers
from endcap.evaluation.intervals import Interval, mean_intervals, paired_intervals
from endcap.evaluation.metrics import find_hits, measure
from endcap.flows.baselines import PurchasePeriods, RankedBaselines, rank_baselines
from endcap.models.purchases import DAY_US

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

K: Final = 10
SEEDS: Final = (7, 8, 9)
SHARES: Final = (0.12, 0.25, 0.5, 1.0)
_FRACTION: Final = 0.1
_FIRST_DAYS: Final = 90
_SHARE_OF_OTHERS: Final = 0.25
_TREES: Final = (50, 100, 150)
_SHAPES: Final[Sequence[Mapping[str, Any]]] = (
    {"objective": "binary", "num_leaves": 15},
    {"objective": "lambdarank", "num_leaves": 15, "lambdarank_truncation_level": 20},
    {"objective": "lambdarank", "num_leaves": 31, "lambdarank_truncation_level": 20},
)
_FIXED: Final[Mapping[str, Any]] = {
    "learning_rate": 0.05, "min_data_in_leaf": 200, "feature_fraction": 0.5, "bagging_fraction": 0.8, "bagging_freq": 1,
    "lambda_l2": 10.0, "max_bin": 127, "num_threads": 1, "deterministic": True, "force_row_wise": True, "verbosity": -1,
}  # fmt: skip
OF_CATEGORIES: Final = ("own_lines_of_", *(f"{name}_" for name in LEVELS), "department", "brand", "type_ease")
OF_DEMOGRAPHICS: Final = (*(f"household_{name}" for name in DEMOGRAPHICS), *(f"{name}_lift" for name in GROUPS))


@dataclass(frozen=True)
class Periods:
    """Where the eval and the test period begin and the data end, as a training run cuts them."""

    eval_us: int
    test_us: int
    end_us: int

    @classmethod
    def of(cls, ts_us: IntArray) -> Periods:
        """From the moments of all purchases, rising."""
        cuts = (int(len(ts_us) * (1 - parts * _FRACTION) + 1e-9) for parts in (2, 1))
        return cls(*(int(ts_us[cut]) for cut in cuts), int(ts_us[-1]) + 1)

    def windows(self, first_us: int) -> list[tuple[int, int]]:
        """Windows to learn from, as long as the test period, the latest first; each begins half a window before the one before."""
        length = self.end_us - self.test_us
        starts = range(self.test_us - length, first_us + _FIRST_DAYS * DAY_US, -(length // 2))
        return [(start, start + length) for start in starts]


@dataclass(frozen=True)
class Window:
    """A window's pairs to learn from: all that were bought, and a share of the others."""

    end_us: int
    rows: IntArray
    is_own: npt.NDArray[np.bool_]
    is_bought: npt.NDArray[np.bool_]
    values: npt.NDArray[np.float32]

    @classmethod
    def of(cls, pairs: Pairs, end_us: int, rng: np.random.Generator) -> Window:
        """Draw among the pairs."""
        kept = pairs.is_bought | (rng.random(len(pairs.rows)) < _SHARE_OF_OTHERS)
        values = np.stack([column[kept] for column in pairs.columns.values()], axis=1)
        return cls(end_us, pairs.rows[kept], pairs.is_own[kept], pairs.is_bought[kept], values)


@dataclass(frozen=True)
class Probe:
    """Boosted trees for one counting, and the columns that they see."""

    trees: lightgbm.Booster
    columns: IntArray

    @classmethod
    def learn(
        cls,
        windows: Sequence[Window],
        counting: Counting,
        columns: IntArray,
        shape: Mapping[str, Any],
        seed: int,
        num_trees: int = _TREES[-1],
        share_of_households: float = 1.0,
    ) -> Probe:
        """Learn to put what was bought first; households without any such pair tell nothing and are left out."""
        rng = np.random.default_rng(seed)
        values, bought, sizes = [], [], []
        for window in windows:
            kept = np.ones(len(window.rows), bool)
            if counting is Counting.NEW_TO_CUSTOMER:
                kept = ~window.is_own
            num_bought = np.bincount(window.rows[kept], weights=window.is_bought[kept])
            asked = (num_bought > 0) & (rng.random(len(num_bought)) < share_of_households)
            kept &= np.append(asked, np.zeros(window.rows[-1] + 1 - len(asked), bool))[window.rows]
            values.append(window.values[kept][:, columns])
            bought.append(window.is_bought[kept])
            sizes.append(np.unique(window.rows[kept], return_counts=True)[1])
        group = None if shape["objective"] == "binary" else np.concatenate(sizes)
        rows = lightgbm.Dataset(np.concatenate(values), np.concatenate(bought).astype(int), group=group)
        return cls(lightgbm.train({**_FIXED, **shape, "seed": seed}, rows, num_trees), columns)

    def score(self, pairs: Pairs, num_trees: int | None = None) -> FloatArray:
        """A score of each pair; only those of one household compare."""
        every = list(pairs.columns.values())
        values = np.stack([every[column] for column in self.columns], axis=1)
        return np.asarray(self.trees.predict(values, num_iteration=num_trees, num_threads=1), np.float64)


def ndcg(customers: HeldOutCustomers, rankings: IntArray, counting: Counting) -> FloatArray:
    """Of each household that bought something that counts."""
    relevant = customers.relevant(counting)
    asked = relevant.lengths > 0
    relevant = relevant.select(asked)
    return measure(find_hits(rankings[asked], relevant), relevant.lengths, [METRIC])[METRIC]


def rank(pairs: Pairs, scores_P: FloatArray, counting: Counting) -> IntArray:
    """The best products of each household, `[num_households, K]`, padded with -1."""
    left = pairs.is_own if counting is Counting.NEW_TO_CUSTOMER else np.zeros(len(scores_P), bool)
    rows, items = pairs.rows[~left], pairs.items[~left]
    order = np.lexsort((items, -scores_P[~left], rows))
    lengths = np.bincount(rows, minlength=len(pairs.customers.user_nums))
    place = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    ranked = np.full((len(lengths), K), -1, dtype=np.int64)
    near = place < K
    ranked[rows[near], place[near]] = items[order][near]
    return ranked


def popular_then(customers: HeldOutCustomers, counting: Counting, *, knows_repeats: bool) -> IntArray:
    """What an oracle ranks: products by how many other households buy them in the very period that is asked for.

    With `knows_repeats` the household's own products that it does buy again come first.
    """
    sold = np.bincount(customers.bought.values, minlength=customers.num_items)
    longest = int(customers.earlier.lengths.max())
    head = np.argsort(-sold, kind="stable")[: K + longest + 2 * K]
    ranked = np.full((len(customers.user_nums), K), -1, dtype=np.int64)
    for row in range(len(ranked)):
        bought, earlier = (
            sets.values[sets.offsets[row] : sets.offsets[row + 1]] for sets in (customers.bought, customers.earlier)
        )
        first = np.intersect1d(bought, earlier)[:K] if knows_repeats else np.zeros(0, np.int64)
        left = first if counting is Counting.ALL_PURCHASES else earlier
        others = sold[head] - np.isin(head, bought)
        others[np.isin(head, left)] = -1
        best = np.concatenate([first, head[np.argsort(-others, kind="stable")]])[:K]
        ranked[row, : len(best)] = best
    return ranked


class Measured:
    """What is learned from and asked, made once, and the report that figures go to."""

    def __init__(self, grocer: Grocer, report: Report) -> None:
        """Tune the baselines and list all pairs."""
        self.report, log = report, grocer.log
        self.periods = Periods.of(log.ts_us)
        self.baselines = self._tuned(grocer)
        settings = {one.name: one.settings for one in self.baselines.tuned if one.counting is Counting.ALL_PURCHASES}
        windows = self.periods.windows(int(log.ts_us[0]))
        rng = np.random.default_rng(SEEDS[0])
        self.eval = pairs_of(grocer, self.periods.eval_us, self.periods.test_us, settings)
        self.test = pairs_of(grocer, self.periods.test_us, self.periods.end_us, settings)
        self.windows = [Window.of(pairs_of(grocer, *window, settings), window[1], rng) for window in windows]
        self.before_eval = [window for window in self.windows if window.end_us <= self.periods.eval_us]
        self.names = list(self.eval.columns)
        self.chosen: dict[Counting, tuple[Mapping[str, Any], int]] = {}

    def _tuned(self, grocer: Grocer) -> RankedBaselines:
        log, periods = grocer.log, self.periods
        before = log.ts_us < periods.test_us
        is_eval = before & (log.ts_us >= periods.eval_us)
        purchases = PurchasePeriods(
            log.user_nums, log.item_nums, log.basket_nums, log.ts_us, log.num_users, log.num_items,
            before & ~is_eval, is_eval, before, periods.eval_us, periods.test_us,
        )  # fmt: skip
        customers = HeldOutCustomers.from_purchases(
            earlier_user_nums=log.user_nums[before],
            earlier_item_nums=log.item_nums[before],
            earlier_basket_nums=log.basket_nums[before],
            test_user_nums=log.user_nums[~before],
            test_item_nums=log.item_nums[~before],
            num_items=log.num_items,
        )
        return rank_baselines(purchases, customers, EvaluationConfig())

    def columns(self, without: Sequence[str] = (), only: Sequence[str] = ("",)) -> IntArray:
        """Places of columns by the beginnings of their names."""
        kept = [name.startswith(tuple(only)) and not name.startswith(tuple(without)) for name in self.names]
        return np.flatnonzero(kept)

    def choose(self) -> None:
        """The shape and number of trees that rank the eval period best, counting by counting."""
        for counting in Counting:
            tried = []
            for shape in _SHAPES:
                probe = Probe.learn(self.before_eval, counting, self.columns(), shape, SEEDS[0])
                for num_trees in _TREES:
                    found = self.on_eval(probe, counting, num_trees)
                    tried.append((found.mean(), shape, num_trees))
                    title = ", ".join(f"{key} {value}" for key, value in shape.items())
                    self.report.add(
                        f"settings on eval, {counting.label}",
                        title,
                        f"{num_trees} trees",
                        ndcg_percent=100 * found.mean(),
                    )
            _, *best = max(tried, key=lambda one: one[0])
            self.chosen[counting] = (best[0], best[1])

    def on_eval(self, probe: Probe, counting: Counting, num_trees: int | None = None) -> FloatArray:
        """NDCG of each household of the eval period."""
        return ndcg(self.eval.customers, rank(self.eval, probe.score(self.eval, num_trees), counting), counting)

    def learned(
        self, windows: Sequence[Window], counting: Counting, columns: IntArray, seed: int, share: float = 1.0
    ) -> Probe:
        """Trees of the chosen shape."""
        shape, num_trees = self.chosen[counting]
        return Probe.learn(windows, counting, columns, shape, seed, num_trees, share)

    def rank_test(self) -> None:
        """The probe on the test period, beside every baseline, household by household."""
        for counting in Counting:
            scores = [self.learned(self.windows, counting, self.columns(), seed).score(self.test) for seed in SEEDS]
            probe = ndcg(self.test.customers, rank(self.test, np.mean(scores, axis=0), counting), counting)
            size = f"{len(probe):,} households"
            for system in self.baselines.systems:
                found = ndcg(self.test.customers, system.of(counting)[:, :K], counting)
                self.report.add(f"test, {counting.label}", system.title, size, **_percent(_mean(found)))
                gain = paired_intervals(probe[:, None], found[:, None], seed=SEEDS[0])[0]
                self.report.add(
                    f"test, {counting.label}: the probe minus", system.title, size, **_percent(gain, "difference")
                )
            self.report.add(f"test, {counting.label}", "the probe", size, **_percent(_mean(probe)))

    def ablate(self) -> None:
        """What groups of columns are worth on the eval period."""
        of_purchases = ("sold", "own_lines", "own_lines_fading")
        parts = {
            "all columns": self.columns(),
            "without categories": self.columns(without=OF_CATEGORIES),
            "without demographics": self.columns(without=OF_DEMOGRAPHICS),
            "without both": self.columns(without=(*OF_CATEGORIES, *OF_DEMOGRAPHICS)),
            "without stores": self.columns(without=("store_lift",)),
            "sales and own purchases alone": self.columns(only=of_purchases, without=("own_lines_of_",)),
        }
        for counting in Counting:
            whole = None
            for title, columns in parts.items():
                found = self.on_eval(self.learned(self.before_eval, counting, columns, SEEDS[0]), counting)
                whole = found if whole is None else whole
                gain = paired_intervals(found[:, None], whole[:, None], seed=SEEDS[0])[0]
                self.report.add(
                    f"columns on eval, {counting.label}", title, f"{len(columns)} columns", ndcg_percent=100 * found.mean(),
                    **_percent(gain, "minus_all"),
                )  # fmt: skip

    def curve(self) -> None:
        """What more households, and more windows, are worth on the eval period."""
        for counting in Counting:
            for share in SHARES:
                latest = self.before_eval[: max(1, round(share * len(self.before_eval)))]
                for what, windows, households in (
                    ("households", self.before_eval, share),
                    ("windows, the latest first", latest, 1.0),
                ):
                    probe = self.learned(windows, counting, self.columns(), SEEDS[0], households)
                    work, mean = f"learning curve on eval, {counting.label}", self.on_eval(probe, counting).mean()
                    self.report.add(work, what, f"{share:.0%}", ndcg_percent=100 * mean)

    def bound(self) -> None:
        """What an oracle of popularity or of repeats reaches, and what candidates can be found at all."""
        for title, pairs in (("eval", self.eval), ("test", self.test)):
            for counting in Counting:
                work = f"bounds on {title}, {counting.label}"
                for name, knows in (
                    ("popularity of the period itself among others", False),
                    ("… and which own products return", True),
                ):
                    if knows and counting is Counting.NEW_TO_CUSTOMER:
                        continue
                    found = ndcg(
                        pairs.customers, popular_then(pairs.customers, counting, knows_repeats=knows), counting
                    )
                    self.report.add(work, name, "", ndcg_percent=100 * found.mean())
                best = ndcg(pairs.customers, rank(pairs, pairs.is_bought.astype(float), counting), counting)
                self.report.add(work, "candidates in the best order", "", ndcg_percent=100 * best.mean())
        for one in self.baselines.tuned:
            self.report.add(
                f"baselines on eval, {one.counting.label}",
                one.title,
                one.as_text,
                ndcg_percent=100 * (one.value or 0.0),
            )


def _mean(values: FloatArray) -> Interval:
    return mean_intervals(values[:, None], seed=SEEDS[0])[0]


def _percent(found: Interval, name: str = "ndcg") -> dict[str, float]:
    return {f"{name}_percent": 100 * found.mean, "low_percent": 100 * found.low, "high_percent": 100 * found.high}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not (arguments.data / "transactions.parquet").is_file():
        raise InputError(f"{arguments.data} holds no transactions.parquet. Give the folder of the data with --data.")
    report = Report("How far a ranker can come on completejourney: ndcg@10", ["lightgbm", "numpy"])
    measured = Measured(Grocer.read(arguments.data), report)
    measured.bound()
    for step in (measured.choose, measured.rank_test, measured.ablate, measured.curve):
        step()
        report.print()
    if arguments.json:
        report.write_json(arguments.json)


if __name__ == "__main__":
    main()
