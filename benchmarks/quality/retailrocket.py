"""The retailrocket clickstream in, what views and carts are worth as signals out: models and baselines with and without.

    python -m benchmarks.quality.retailrocket [--data FOLDER] [--seeds 7 8 9] [--json FILE]

The folder holds `events.parquet` (`user_id, item_id, event_type, event_time`) and `test_purchases.parquet` (`user_id, item_id`: one
held-out purchase of each user, without a time, whose own views and carts are not among the events). Each user is asked for
as of the end of their events; all products but those that the user met are ranked. Whatever is chosen (epochs, settings of
baselines) is chosen inside of `events`: there each user's last purchase is held out in the same way, its views and carts
taken away.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.report import Report
from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Silent
from endcap.engines import duckdb
from endcap.evaluation.customers import Counting
from endcap.evaluation.intervals import mean_intervals, paired_intervals
from endcap.evaluation.metrics import RaggedSets, find_hits, measure
from endcap.features import dataset
from endcap.features.signals import FIRST_SEEN, signals_of
from endcap.flows.baselines import PurchasePeriods, tune
from endcap.flows.fitting import neighbors_before
from endcap.flows.transformed import Transformed, transform
from endcap.models.baselines import fit_baseline
from endcap.training.data import questions_of
from endcap.training.loop import NEW, EvalPeriod, Trained, evaluate_model, fit_model, score_all
from endcap.workspace.configuration import load_configuration
from endcap.workspace.layout import Workspace

DATA: Final = Path("shared/data/retailrocket")
TYPES: Final = {"view": "view_item", "add_to_cart": "add_to_cart", "purchase": "purchase"}
METRIC: Final = "ndcg@10"
DEEP: Final = 100
SESSION_US: Final = 30 * 60 * 1_000_000
HOUR_US: Final = 3_600_000_000
MODELS: Final = {
    "two towers, views and carts as signals": (),
    "two towers, purchases only": (
        "features.buyer.user_history.sequence.event_types=[purchase]",
        "questions.event_types={add_to_cart: 0, view_item: 0}",
    ),
}
"""Overrides of `experiment=clickstream` by the name of the model."""
SHAPE: Final = (
    "questions.event_types={purchase: 1.0, add_to_cart: 1.0, view_item: 1.0}",
    "model.output_embedding_dim=33",
    "features.product.item_id.embedding.dim=32",
    "training.num_epochs=3",
    "training.patience=3",
    "evaluation.baselines.learned=[ease, als]",
    "split.kind=leave_last_out",
)
SCALES: Final = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Of the neighbors' scores; chosen inside of the events."""
BASELINES: Final = ("popular_lately", "own_most_bought", "co_purchase", "ease", "als")

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Events:
    """Events as columns of strings and microseconds; `held` are the pairs of user and product that are asked for."""

    table: pa.Table
    held: pa.Table


def read(folder: Path) -> Events:
    """The files as they are. Raises InputError where they aren't."""
    paths = [folder / "events.parquet", folder / "test_purchases.parquet"]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise InputError(
            f"{' and '.join(missing)} can't be found: the data is not shipped. Give the folder that holds it with --data."
        )
    events, held = (pq.read_table(path) for path in paths)
    words = pa.array([TYPES[word] for word in events["event_type"].to_pylist()])
    moments = events["event_time"].cast(pa.int64())
    table = pa.table(
        {"user_id": events["user_id"], "item_id": events["item_id"], "event_type": words, "ts_us": moments}
    )
    return Events(table, held)


def inside(events: Events) -> Events:
    """The last purchase of each user who has two or more, held out as the test's are."""
    bought = events.table.filter(pc.equal(events.table["event_type"], "purchase")).sort_by("ts_us").to_pylist()
    last: dict[str, str] = {}
    num: dict[str, int] = {}
    for row in bought:
        last[row["user_id"]] = row["item_id"]
        num[row["user_id"]] = num.get(row["user_id"], 0) + 1
    held = {user: item for user, item in last.items() if num[user] > 1}
    users, items = events.table["user_id"].to_pylist(), events.table["item_id"].to_pylist()
    kept = [held.get(user) != item for user, item in zip(users, items, strict=True)]
    return Events(
        events.table.filter(pa.array(kept)), pa.table({"user_id": list(held), "item_id": list(held.values())})
    )


class Asked:
    """Who is asked for what, with numbers for users and products, and what each user met before."""

    def __init__(self, events: Events) -> None:
        """Number what the events name; a held-out product that they don't has a number after all others."""
        self.events = events
        self.users = {user: number for number, user in enumerate(sorted(set(events.table["user_id"].to_pylist())))}
        self.items = {item: number for number, item in enumerate(sorted(set(events.table["item_id"].to_pylist())))}
        self.num_items = len(self.items)
        self.user_nums = np.array([self.users[user] for user in events.table["user_id"].to_pylist()])
        self.item_nums = np.array([self.items[item] for item in events.table["item_id"].to_pylist()])
        self.ts_us = events.table["ts_us"].to_numpy()
        self.is_purchase = np.asarray(pc.equal(events.table["event_type"], "purchase"))
        self.asked = np.array([self.users[user] for user in events.held["user_id"].to_pylist()])
        self.wanted = np.array([self.items.get(item, self.num_items) for item in events.held["item_id"].to_pylist()])
        self.relevant = RaggedSets.from_lists([[int(item)] for item in self.wanted])
        row_of = np.full(len(self.users), -1)
        row_of[self.asked] = np.arange(len(self.asked))
        rows = row_of[self.user_nums]
        self.met = RaggedSets.from_pairs(rows[rows >= 0], self.item_nums[rows >= 0], len(self.asked))

    def values(self, rankings: IntArray) -> FloatArray:
        """NDCG@10 of each asked user, of rankings of which what the user met is dropped."""
        kept = np.full((len(rankings), DEEP), -1, np.int64)
        for row, items in enumerate(rankings):
            left = items[~np.isin(items, self.met.values[self.met.offsets[row] : self.met.offsets[row + 1]])][:DEEP]
            kept[row, : len(left)] = left
        return measure(find_hits(kept, self.relevant), self.relevant.lengths, [METRIC])[METRIC]

    def periods(self, *, with_signals: bool) -> PurchasePeriods:
        """For the baselines: visits are baskets; what is held out is the eval period and, to be fitted on all, nothing."""
        kept = np.ones(len(self.ts_us), np.bool_) if with_signals else self.is_purchase
        order = np.lexsort((self.ts_us[kept], self.user_nums[kept]))
        users, items, moments = (values[kept][order] for values in (self.user_nums, self.item_nums, self.ts_us))
        begins = np.ones(len(users), np.bool_)
        begins[1:] = (users[1:] != users[:-1]) | (moments[1:] - moments[:-1] > SESSION_US)
        baskets = np.cumsum(begins)
        end_us = int(moments.max()) + 1
        known = np.arange(len(users) + len(self.asked)) < len(users)
        held_baskets = baskets[-1] + 1 + np.arange(len(self.asked))
        return PurchasePeriods(
            user_nums=np.concatenate([users, self.asked]),
            item_nums=np.concatenate([items, self.wanted]),
            basket_nums=np.concatenate([baskets, held_baskets]),
            ts_us=np.concatenate([moments, np.full(len(self.asked), end_us)]),
            num_users=len(self.users),
            num_items=self.num_items,
            before_eval=known,
            is_eval=~known,
            before_test=known,
            eval_start_us=end_us,
            test_start_us=end_us,
        )


def configuration_of(overrides: tuple[str, ...]) -> Configuration:
    """`experiment=clickstream` with further overrides, less the product's column that tells of signals where there are none."""
    configuration = load_configuration(["experiment=clickstream", *SHAPE, *overrides])
    history = configuration.features.buyer["user_history"].sequence
    if history is not None and history.counted:
        return configuration
    product = {name: column for name, column in configuration.features.product.items() if name != FIRST_SEEN}
    features = configuration.features.model_copy(update={"product": product})
    return configuration.model_copy(update={"features": features})


@contextmanager
def tables_of(events: Events, configuration: Configuration) -> Iterator[dataset.FeatureTables]:
    """Feature tables whose test period is what is held out, an hour after the user's last event."""
    last = events.table.group_by("user_id").aggregate([("ts_us", "max")])
    ends = dict(zip(last["user_id"].to_pylist(), last["ts_us_max"].to_pylist(), strict=True))
    asked = events.held.append_column(
        "ts_us", pa.array([ends[user] + HOUR_US for user in events.held["user_id"].to_pylist()], pa.int64())
    ).append_column("event_type", pa.array(["purchase"] * events.held.num_rows))
    rows = pa.concat_tables([events.table, asked.select(events.table.column_names).cast(events.table.schema)])
    sequence = configuration.features.buyer["user_history"].sequence
    assert sequence is not None
    settings = dataset.Settings(
        configuration.split, configuration.questions, sequence.max_length, None, tuple(sequence.event_types)
    )
    with tempfile.TemporaryDirectory() as folder, duckdb.session(Workspace.init(Path(folder) / "w")) as connection:
        happened = ibis.memtable(rows)
        bought = happened.filter(happened["event_type"] == "purchase")
        purchases = bought.select(
            "user_id", "item_id", "ts_us",
            basket_id=bought["user_id"] + "@" + bought["ts_us"].cast("string"),
            price=ibis.literal(1).cast("decimal(18, 4)"),
        )  # fmt: skip
        signals = signals_of(happened, settings.signal_types) if settings.signal_types else None
        met = happened if signals is not None else bought
        items = met.select("item_id", title=met["item_id"]).distinct()
        users = ibis.memtable(pa.table({"user_id": sorted(ends), "country": pa.nulls(len(ends), pa.string())}))
        target = Path(folder) / "tables"
        target.mkdir()
        yield dataset.build(connection, purchases, items, users, settings, target, Silent(), None, signals)


@torch.no_grad()
def rank(trained: Trained, data: Transformed, tables: dataset.FeatureTables, asked: Asked) -> IntArray:
    """The best products of each asked user, before those that the user met are dropped."""
    table = tables.table("test")
    place = {user: row for row, user in enumerate(table["user_id"].to_pylist())}
    questions = questions_of(data.fitted, table)
    catalog, model = data.catalog, trained.model.eval()
    products = model.products(catalog.on(data.day))
    numbers = np.array([-1, *(asked.items[item] for item in catalog.item_ids)])
    depth = min(DEEP + int(asked.met.lengths.max(initial=0)), catalog.num_items)
    ranked = np.full((len(asked.asked), depth), -1, np.int64)
    names = asked.events.held["user_id"].to_pylist()
    for start in range(0, len(names), 128):
        rows = np.array([place[user] for user in names[start : start + 128]])
        scores_BN = score_all(model, products, questions, rows)
        ranked[start : start + len(rows)] = numbers[torch.topk(scores_BN, depth, dim=1).indices.numpy()]
    return ranked


def choose(events: Events, configuration: Configuration) -> tuple[int, float, str]:
    """The number of epochs and the scale of neighbors that do best inside of the events, and the metric of each."""
    with tables_of(events, configuration) as tables:
        data = transform(tables, configuration.features, "refit", Silent())
        table = tables.table("test")
        number = {item: place for place, item in enumerate(data.catalog.item_ids)}
        wanted = dict(zip(events.held["user_id"].to_pylist(), events.held["item_id"].to_pylist(), strict=True))
        met: dict[str, set[str]] = {}
        for user, item in zip(*(events.table[name].to_pylist() for name in ("user_id", "item_id")), strict=True):
            met.setdefault(user, set()).add(item)
        outside = len(number)
        users = table["user_id"].to_pylist()
        bought = [[number.get(wanted[user], outside)] for user in users]
        earlier = [sorted(number[item] for item in met.get(user, ()) if item in number) for user in users]
        period = EvalPeriod(
            questions_of(data.fitted, table), RaggedSets.from_lists(bought), RaggedSets.from_lists(earlier), data.day
        )
        trained = fit_model(
            configuration, data.fitted, data.catalog, data.questions, data.end_us, Silent(), evaluate=period,
            neighbor_tables=neighbors_before("test", tables, configuration, data.catalog),
        )  # fmt: skip
        by_scale = {}
        for scale in SCALES if trained.model.neighbors is not None else ():
            trained.model.neighbors.scale = scale
            by_scale[scale] = evaluate_model(trained.model, data.catalog, period)[f"{NEW}/{METRIC}"]
    found = [record.metrics[f"{NEW}/{METRIC}"] for record in trained.epochs]
    told = f"by epoch {', '.join(f'{value:.4f}' for value in found)}"
    told += "".join(f", at scale {scale:g} {value:.4f}" for scale, value in by_scale.items())
    best = max(by_scale, key=lambda scale: by_scale[scale], default=configuration.model.neighbor_scale)
    return int(np.argmax(found)) + 1, best, told


def trained_values(
    events: Events, configuration: Configuration, num_epochs: int, seeds: list[int]
) -> dict[int, FloatArray]:
    """The metric of each test user by seed, of models that were trained on all events."""
    asked = Asked(events)
    values = {}
    with tables_of(events, configuration) as tables:
        data = transform(tables, configuration.features, "refit", Silent())
        neighbors = neighbors_before("test", tables, configuration, data.catalog)
        for seed in seeds:
            seeded = configuration.model_copy(update={"seed": seed})
            trained = fit_model(
                seeded, data.fitted, data.catalog, data.questions, data.end_us, Silent(), num_epochs=num_epochs,
                neighbor_tables=neighbors,
            )  # fmt: skip
            values[seed] = asked.values(rank(trained, data, tables, asked))
    return values


def baseline_values(name: str, tuning: Asked, asked: Asked, configuration: Configuration, *, with_signals: bool) -> Any:
    """A baseline's settings, tuned inside of the events, and the metric of each test user."""
    evaluation = configuration.evaluation
    chosen = next(
        one
        for one in tune(name, tuning.periods(with_signals=with_signals), evaluation)
        if one.counting is Counting.NEW_TO_CUSTOMER
    )
    periods = asked.periods(with_signals=with_signals)
    log = periods.log(periods.before_test)
    fitted = fit_baseline(name, log, periods.test_start_us, evaluation.popular_days, chosen.settings)
    depth = min(DEEP + int(asked.met.lengths.max()), asked.num_items)
    return chosen.as_text, asked.values(fitted.recommend(asked.asked, depth, exclude_seen=True).item_nums)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    events = read(arguments.data)
    within = inside(events)
    report = Report("Purchases of products new to the user, all products ranked (retailrocket)", ["torch", "numpy"])
    configurations = {name: configuration_of(more) for name, more in MODELS.items()}
    models: dict[str, dict[int, FloatArray]] = {}
    for name, configuration in configurations.items():
        num_epochs, scale, found = choose(within, configuration)
        print(f"{name}: {num_epochs} epochs, scale {scale:g}; inside of the events {METRIC} {found}", flush=True)
        scaled = configuration.model.model_copy(update={"neighbor_scale": scale})
        chosen = configuration.model_copy(update={"model": scaled})
        models[name] = trained_values(events, chosen, num_epochs, arguments.seeds)
        for seed, values in models[name].items():
            _add(report, name, f"seed {seed}, {num_epochs} epochs, scale {scale:g}", values)
    tuning, asked = Asked(within), Asked(events)
    others: dict[str, FloatArray] = {}
    plain = next(iter(configurations.values()))
    for with_signals in (False, True):
        for name in BASELINES:
            title = f"{name}{', views and carts too' if with_signals else ''}"
            settings, others[title] = baseline_values(name, tuning, asked, plain, with_signals=with_signals)
            _add(report, title, settings, others[title])
    first, second = MODELS
    for seed, values in models[first].items():
        rivals = {f"{second}, seed {seed}": models[second][seed], **others}
        for rival, theirs in rivals.items():
            gain = paired_intervals(values[:, None], theirs[:, None], seed=seed)[0]
            report.add(
                f"{first}, seed {seed}, minus", rival, f"{len(values):,} users", difference=gain.mean,
                low=gain.low, high=gain.high,
            )  # fmt: skip
    report.print()
    if arguments.json:
        report.write_json(arguments.json)


def _add(report: Report, name: str, size: str, values: FloatArray) -> None:
    found = mean_intervals(values[:, None], seed=0)[0]
    print(f"{name} ({size}): {found.mean:.4f} ({found.low:.4f} to {found.high:.4f})", flush=True)
    report.add("ranking all products", name, size, ndcg_at_10=found.mean, low=found.low, high=found.high)


if __name__ == "__main__":
    main()
