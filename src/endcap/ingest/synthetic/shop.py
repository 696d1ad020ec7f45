"""A plan in, a folder with a made-up shop's events, catalog and logs, and the truth about them, out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from endcap.contracts.events import SESSION_GAP_MINUTES, US_PER_DAY, US_PER_MINUTE
from endcap.contracts.reporting import Reporter, Silent
from endcap.ingest.synthetic import rows as r
from endcap.ingest.synthetic.delivery import Delivery
from endcap.ingest.synthetic.draws import REFUNDS, Ints, stream
from endcap.ingest.synthetic.mapping import MAPPING, MAPPING_FILE
from endcap.ingest.synthetic.plan import Plan
from endcap.ingest.synthetic.season import day_targets
from endcap.ingest.synthetic.sessions import Request, make_bots, make_day
from endcap.ingest.synthetic.tables import Texts, day_of
from endcap.ingest.synthetic.world import NEVER_US, World, make_world
from endcap.ingest.synthetic.writing import Writer, write_parquet, write_rows, writing
from endcap.workspace import atomic

TRUTH: Final = "truth.json"
EVENTS_FOLDER, ITEMS_FILE, VERSIONS_FILE = "events", "items.parquet", "item_versions.parquet"
REQUESTS_FOLDER, FEEDBACK_FOLDER = "logs/requests", "logs/feedback"
_REFUND_SHARE: Final = 0.04
_REFUND_DAYS: Final = (1, 14)
_DAY_BITS: Final = 37
_STAGE: Final = "making up events"


class _Sessions:
    """Counts sessions over days that come in order."""

    def __init__(self, num_ids: int) -> None:
        self.last_seen_us: Ints = np.full(num_ids, -NEVER_US)

    def begun(self, ids: npt.NDArray[np.integer[Any]], moments: Ints) -> int:
        """How many sessions begin among the events of one day."""
        if not len(ids):
            return 0
        # One number orders by person and time: a sort of one key is several times as fast as one of two.
        midnight_us = int(moments[0]) // US_PER_DAY * US_PER_DAY
        keys = np.sort((ids.astype(np.int64) << _DAY_BITS) + moments - midnight_us)
        user, ts_us = keys >> _DAY_BITS, (keys & (2**_DAY_BITS - 1)) + midnight_us
        is_first = np.append(True, user[1:] != user[:-1])
        before = np.where(is_first, self.last_seen_us[user], np.roll(ts_us, 1))
        self.last_seen_us[user] = ts_us  # of several, the last one stays
        return int((ts_us - before > SESSION_GAP_MINUTES * US_PER_MINUTE).sum())


@dataclass
class _Counter:
    """What the files hold, counted while they are made."""

    world: World
    people: _Sessions
    """Whoever a guest turns out to be."""
    ids: _Sessions
    """A guest and the user that they become counted apart."""
    has_logged_in: Any
    is_item_seen: Any
    events: dict[str, int] = field(default_factory=lambda: dict.fromkeys(r.TYPES, 0))
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            (
                "num_bot_events",
                "num_guest_events",
                "num_sessions",
                "num_sessions_unmerged",
                "num_requests",
                "num_impressions",
                "num_feedback",
            ),
            0,
        )
    )
    events_by_day: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, world: World) -> _Counter:
        num_known = world.plan.users + world.num_bots
        is_seen = np.zeros(world.plan.items, dtype=np.bool_)
        has_logged_in = np.zeros(num_known, dtype=np.bool_)
        return cls(world, _Sessions(num_known), _Sessions(2 * num_known), has_logged_in, is_seen)

    def add_day(self, rows: r.Rows, is_guest: Any) -> None:
        """Count a whole day's distinct events; days come in order."""
        for name, count in zip(r.TYPES, np.bincount(rows.event_type, minlength=len(r.TYPES)).tolist(), strict=True):
            self.events[name] += count
        self.events_by_day.append(len(rows))
        self.counts["num_bot_events"] += int((rows.user >= self.world.plan.users).sum())
        self.counts["num_guest_events"] += int(is_guest.sum())
        self.has_logged_in[rows.user[~is_guest]] = True
        self.is_item_seen[rows.item[rows.item >= 0]] = True
        self.counts["num_sessions"] += self.people.begun(rows.user, rows.ts_us)
        apart = rows.user + is_guest * np.int64(len(self.has_logged_in))
        self.counts["num_sessions_unmerged"] += self.ids.begun(apart, rows.ts_us)

    def add_request(self, request: Request) -> None:
        """Count the lists of a day and what came of them."""
        self.counts["num_requests"] += len(request.number)
        self.counts["num_impressions"] += int((request.lists.items >= 0).sum())
        outcomes = (request.clicked_us, request.carted_us, request.bought_us)
        self.counts["num_feedback"] += sum(int(np.count_nonzero(moments)) for moments in outcomes)


def generate(
    out: Path, plan: Plan, report: Reporter | None = None, *, user_key: Callable[[str], str] | None = None
) -> dict[str, Any]:
    """Make up the shop below `out`, which appears whole or not at all, and return what `truth.json` says.

    Memory grows with the events of one day, not of all. `user_key` gives the name of a user in the logs of lists, made up
    as well without it. Raises InputError when `out` exists.
    """
    report = report or Silent()
    started = time.perf_counter()
    with atomic.publish_folder(out) as folder, writing() as writer:
        world = make_world(plan)
        texts = Texts(world, user_key)
        write_parquet(texts.items(), folder / ITEMS_FILE)
        write_parquet(texts.item_versions(), folder / VERSIONS_FILE)
        counter, delivery = _Counter.of(world), Delivery(plan)
        done = 0
        for day, rows in enumerate(_days(world, counter, texts, folder, writer)):
            is_guest = texts.is_guest(rows)
            counter.add_day(rows, is_guest)
            date = _date(plan, day)
            path = folder / EVENTS_FOLDER / f"events_{date}.{plan.file_format}"
            writer.put(write_rows, texts.events(delivery.day(rows, day)), path, plan.file_format)
            done += len(rows)
            seconds = time.perf_counter() - started
            report.progress(
                _STAGE,
                day + 1,
                plan.num_days,
                f"{done:,} events, {1e6 * seconds / max(done, 1):.1f} s a million",
            )
        atomic.write_text(folder / MAPPING_FILE, MAPPING)
        truth = _truth(plan, world, counter, delivery)
        atomic.write_json(folder / TRUTH, truth)
    return truth


def _days(world: World, counter: _Counter, texts: Texts, folder: Path, writer: Writer) -> Iterator[r.Rows]:
    """Yield each day's distinct events, in no particular order; writes the logs of lists on the way."""
    plan = world.plan
    later = r.Shelf(plan.num_days - 1)
    made = 0
    for day, target in enumerate(day_targets(plan).cumsum().tolist()):
        bots = make_bots(world, day, target - made)
        visits, request = make_day(world, day, max(target - made - len(bots), 0))
        refunds = _refunds(world, visits, day)
        events = r.concatenate([visits, bots, refunds])
        made += len(events)
        counter.add_request(request)
        date = _date(plan, day)
        writer.put(write_parquet, texts.requests(request), folder / REQUESTS_FOLDER / f"requests_{date}.parquet")
        writer.put(write_parquet, texts.feedback(request), folder / FEEDBACK_FOLDER / f"feedback_{date}.parquet")
        later.put(events, day_of(events.ts_us, plan.start_us))
        yield r.concatenate([*later.due(day), events.take(slice(0, 0))])  # a day may be empty


def _refunds(world: World, visits: r.Rows, day: int) -> r.Rows:
    """Some of the day's purchases go back some days later, at the price that was paid."""
    rng = stream(world.plan.seed, REFUNDS, day)
    bought = np.flatnonzero(visits.event_type == r.PURCHASE_CODE)
    rows = visits.take(bought[rng.random(len(bought)) < _REFUND_SHARE])
    count = len(rows)
    first, last = _REFUND_DAYS
    wait_us = rng.integers(first * US_PER_DAY, last * US_PER_DAY, count)
    number = (np.int64(day) << 40) + (np.int64(2) << 38) + np.arange(count)
    refund = np.full(count, r.REFUND_CODE, dtype=np.uint8)
    refunds = replace(rows, ts_us=rows.ts_us + wait_us, number=number, event_type=refund)
    return refunds.take(refunds.ts_us < world.plan.end_us)


def _date(plan: Plan, day: int) -> str:
    return (plan.start + timedelta(days=day)).isoformat()


def _truth(plan: Plan, world: World, counter: _Counter, delivery: Delivery) -> dict[str, Any]:
    num_events = sum(counter.events.values())
    people = counter.has_logged_in[: plan.users]
    return {
        "plan": {**asdict(plan), "start": plan.start.isoformat(), "num_users": plan.users, "num_items": plan.items},
        "num_rows": num_events + delivery.num_duplicates,
        "num_events": num_events,
        "num_duplicates": delivery.num_duplicates,
        "num_late": delivery.num_late,
        "num_users": int(people.sum()),
        "num_people": int((counter.people.last_seen_us[: plan.users] > -NEVER_US).sum()),
        "num_bots": world.num_bots,
        "num_items": plan.items,
        "num_items_seen": int(counter.is_item_seen.sum()),
        **counter.counts,
        "session_gap_minutes": SESSION_GAP_MINUTES,
        "events": counter.events,
        "events_by_day": {_date(plan, day): count for day, count in enumerate(counter.events_by_day)},
    }
