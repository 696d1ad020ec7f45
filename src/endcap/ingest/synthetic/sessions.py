"""A world and a day in, that day's visits, event by event, and the lists shown in them, out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from endcap.contracts.events import US_PER_DAY
from endcap.ingest.synthetic import rows as r
from endcap.ingest.synthetic.draws import BOTS, LISTS, SESSIONS, Ints, Truths, draw_ascending, stream
from endcap.ingest.synthetic.lists import PLACES, POOL, SURFACES, Lists, show_lists
from endcap.ingest.synthetic.season import start_times
from endcap.ingest.synthetic.taste import Assortment, complements
from endcap.ingest.synthetic.world import CATEGORIES, World

NUM_DEVICES: Final = 3
DEVICES: Final = ("mobile", "desktop", "tablet")
_SURFACE_PROPERTIES: Final = NUM_DEVICES
_QUERY_PROPERTIES: Final = NUM_DEVICES + len(SURFACES)

_EVENTS_PER_SESSION: Final = 5.2
"""A little less than there are, so that more visits are drawn than needed."""
_LIST_SHARE, _SEARCH_SHARE, _STAPLE_SHARE = 0.35, 0.2, 0.2
_STOP_VIEWING, _MAX_VIEWS = 0.27, 40
_CART, _REMOVE, _BUY, _STAPLE_CART, _STAPLE_BUY = 0.16, 0.13, 0.5, 0.9, 0.92
_PAUSE_SHARE: Final = 0.012
_US: Final = 1_000_000
_BOT_SHARE: Final = 0.005


@dataclass(frozen=True)
class Request:
    """Lists that were shown, with what came of each place; R requests of K places."""

    number: Ints
    user: Ints
    ts_us: Ints
    lists: Lists
    clicked_us: Ints
    """(R, K): 0 where nothing was clicked; likewise the next two."""
    carted_us: Ints
    bought_us: Ints
    value: Ints
    """(R, K): of what was bought, in ten-thousandths."""


@dataclass(frozen=True)
class _Visits:
    """One entry per session."""

    user: Ints
    start_us: Ints
    staple: Ints
    has_list: Truths
    has_search: Truths
    num_views: Ints


@dataclass(frozen=True)
class _Views:
    """One entry per product looked at, session by session."""

    session: Ints
    item: Ints
    is_click: Truths
    is_cart: Truths
    is_removed: Truths
    is_bought: Truths

    def upto(self, num_sessions: int) -> _Views:
        """Those of the first sessions."""
        end = int(np.searchsorted(self.session, num_sessions))
        return _Views(*(array[:end] for array in vars(self).values()))


def make_day(world: World, day: int, target: int) -> tuple[r.Rows, Request]:
    """About `target` events of visits that begin on `day`, in no particular order; some end on the next day."""
    rng = stream(world.plan.seed, SESSIONS, day)
    assortment = Assortment(world, day)
    visits = _plan_visits(rng, world, day, target)
    lists, views = _plan_views(rng, stream(world.plan.seed, LISTS, day), world, assortment, visits)
    head = (visits.has_list | visits.has_search).astype(np.int64)
    per_view = 1 + views.is_click + views.is_cart + views.is_removed.astype(np.int64)
    num_sessions = len(visits.user)
    bought = np.bincount(views.session, weights=views.is_bought, minlength=num_sessions).astype(np.int64)
    lengths = head + np.bincount(views.session, weights=per_view, minlength=num_sessions).astype(np.int64)
    lengths += bought + (bought > 0)
    kept = max(int(np.searchsorted(np.cumsum(lengths), target, side="right")), 1 if target > 0 else 0)
    views = views.upto(kept)
    return _lay_out(rng, world, day, visits, views, lists, head[:kept], lengths[:kept], bought[:kept])


def _plan_visits(rng: np.random.Generator, world: World, day: int, target: int) -> _Visits:
    people = world.people
    count = int(target / _EVENTS_PER_SESSION) + 20
    is_here = people.first_day <= day
    if not is_here.any():
        is_here[:] = True
    regulars, bound_items = _staple_visits(rng, world, day, is_here, int(count * _STAPLE_SHARE))
    others = draw_ascending(rng, people.activity * is_here, count - len(regulars))
    mixing = rng.permutation(count)
    staple = np.concatenate([bound_items, np.full(len(others), -1)])[mixing]
    chance = rng.random(count)
    has_list = (chance < _LIST_SHARE) & (staple < 0)
    return _Visits(
        user=np.concatenate([regulars, others])[mixing],
        start_us=start_times(rng, world.plan, day, count),
        staple=staple,
        has_list=has_list,
        has_search=(chance > 1 - _SEARCH_SHARE) & (staple < 0),
        num_views=np.minimum(rng.geometric(_STOP_VIEWING, count), _MAX_VIEWS),
    )


def _staple_visits(
    rng: np.random.Generator, world: World, day: int, is_here: Truths, at_most: int
) -> tuple[Ints, Ints]:
    """Who comes back that day for what is used up: each product in its own rhythm, each person out of step."""
    staples = world.people.staples
    period = world.items.repeat_days[np.maximum(staples, 0)]
    is_due = (staples >= 0) & is_here[:, None] & ((day + world.people.staple_phase) % np.maximum(period, 1) == 0)
    users, slots = np.nonzero(is_due)
    chosen = rng.permutation(len(users))[:at_most]
    return users[chosen], staples[users[chosen], slots[chosen]]


def _plan_views(
    rng: np.random.Generator, list_rng: np.random.Generator, world: World, assortment: Assortment, visits: _Visits
) -> tuple[Lists, _Views]:
    num_sessions = len(visits.user)
    session = np.repeat(np.arange(num_sessions), visits.num_views)
    first = np.cumsum(visits.num_views) - visits.num_views
    theme = assortment.favourite_categories(rng, visits.user)
    item = _browse(rng, assortment, visits.user[session], theme[session])
    is_staple_view = np.zeros(len(session), dtype=np.bool_)
    for_staple = visits.staple >= 0
    item[first[for_staple]] = visits.staple[for_staple]
    is_staple_view[first[for_staple]] = True

    asked = np.flatnonzero(visits.has_list)
    users = visits.user[asked]
    half = POOL // 2
    own = assortment.groups_of(list_rng, np.repeat(users, half), np.repeat(theme[asked], half))
    pool = [
        assortment.from_groups(list_rng, own).reshape(-1, half),
        assortment.anything(list_rng, len(users) * half).reshape(-1, half),
    ]
    lists = show_lists(list_rng, world, users, np.concatenate(pool, axis=1), visits.num_views[asked])
    request, place = np.nonzero(lists.is_clicked)
    rank = np.cumsum(lists.is_clicked, axis=1)[request, place] - 1
    clicked_view = first[asked[request]] + rank
    is_click = np.zeros(len(session), dtype=np.bool_)
    is_click[clicked_view] = True
    item[clicked_view] = lists.items[request, place]

    versions = world.items.versions
    in_stock = versions.in_stock[versions.at(item, visits.start_us[session])]
    chance = rng.random((4, len(session)), dtype=np.float32)
    suits = world.items.tier[item] == world.people.tier[visits.user[session]]
    is_cart = in_stock & (chance[0] < np.where(is_staple_view, _STAPLE_CART, np.where(suits, _CART, 0.6 * _CART)))
    is_removed = is_cart & ~is_staple_view & (chance[1] < _REMOVE)
    buys = rng.random(num_sessions) < np.where(for_staple, _STAPLE_BUY, _BUY)
    return lists, _Views(session, item, is_click, is_cart, is_removed, is_cart & ~is_removed & buys[session])


def _browse(rng: np.random.Generator, assortment: Assortment, users: Ints, themes: Ints) -> Ints:
    """Products by the visit's theme mostly, else what goes with it, else what is popular."""
    way = rng.random(len(users), dtype=np.float32)
    categories = np.where(way < 0.65, themes, complements(themes))
    item = assortment.from_groups(rng, assortment.groups_of(rng, users, categories))
    is_anything = way >= 0.8
    item[is_anything] = assortment.anything(rng, int(is_anything.sum()))
    return item


def _lay_out(
    rng: np.random.Generator,
    world: World,
    day: int,
    visits: _Visits,
    views: _Views,
    lists: Lists,
    head: Ints,
    lengths: Ints,
    bought: Ints,
) -> tuple[r.Rows, Request]:
    """Place every session's events one after another, then give them their moments."""
    num_sessions, total = len(lengths), int(lengths.sum())
    offset = np.cumsum(lengths) - lengths
    session = np.repeat(np.arange(num_sessions), lengths)
    event_type = np.full(total, r.VIEW_CODE, dtype=np.uint8)
    item = np.full(total, -1, dtype=np.int32)
    quantity = np.zeros(total, dtype=np.int16)

    headed = np.flatnonzero(head)
    event_type[offset[headed]] = np.where(visits.has_list[headed], r.LIST_CODE, r.SEARCH_CODE)
    per_view = 1 + views.is_click + views.is_cart + views.is_removed.astype(np.int64)
    before = np.cumsum(per_view) - per_view
    first_view = np.cumsum(visits.num_views[:num_sessions]) - visits.num_views[:num_sessions]
    at_view = offset[views.session] + head[views.session] + before - before[first_view][views.session] + views.is_click
    at_cart, at_remove = at_view + 1, at_view + 2
    amounts = 1 + (rng.random(len(views.item)) < 0.15) * rng.integers(1, 4, len(views.item))
    end_of_views = offset + lengths - bought - (bought > 0)
    event_type[end_of_views[bought > 0]] = r.CHECKOUT_CODE
    rank: Ints = np.cumsum(views.is_bought) - views.is_bought
    rank = rank - rank[first_view][views.session]
    at_purchase = end_of_views[views.session] + 1 + rank

    item[at_view] = views.item
    for at, chosen, code in (
        (at_view - 1, views.is_click, r.SELECT_CODE),
        (at_cart, views.is_cart, r.CART_CODE),
        (at_remove, views.is_removed, r.REMOVE_CODE),
        (at_purchase, views.is_bought, r.PURCHASE_CODE),
    ):
        event_type[at[chosen]] = code
        item[at[chosen]] = views.item[chosen]
        if code != r.SELECT_CODE:
            quantity[at[chosen]] = amounts[chosen]

    ts_us = _moments(rng, visits.start_us[:num_sessions], session, offset, event_type)
    price, category, is_true = _prices(world, item, ts_us, event_type)
    is_true &= ts_us < world.plan.end_us
    number = (np.int64(day) << 40) + np.arange(total)
    rows = r.Rows(
        number=number,
        ts_us=ts_us,
        user=visits.user[session].astype(np.int32),
        item=item,
        event_type=event_type,
        quantity=quantity,
        price=price,
        category=category,
        basket=np.where(event_type == r.PURCHASE_CODE, number[offset[session]], -1),
        properties=_properties(world, visits, lists, session, event_type, item),
    )
    at = {"clicked": at_view - 1, "carted": at_cart, "bought": at_purchase}
    request = _requests(visits, views, lists, rows, is_true, offset, at)
    return rows.take(is_true), request


def _moments(
    rng: np.random.Generator, start_us: Ints, session: Ints, offset: Ints, event_type: npt.NDArray[np.uint8]
) -> Ints:
    """Seconds to minutes between events, now and then a long pause; the lines of one order fall on one moment."""
    total = len(session)
    gaps_us = (np.exp(rng.standard_normal(total, dtype=np.float32) * 1.1 + 3.0) * _US).astype(np.int64) + 1_000
    gaps_us = np.minimum(gaps_us, 25 * 60 * _US)
    pauses = np.flatnonzero(rng.random(total, dtype=np.float32) < _PAUSE_SHARE)
    gaps_us[pauses] = rng.integers(8 * 60 * _US, 55 * 60 * _US, len(pauses))
    gaps_us[offset] = 0
    is_purchase = event_type == r.PURCHASE_CODE
    gaps_us[1:][is_purchase[1:] & is_purchase[:-1]] = 0
    elapsed = np.cumsum(gaps_us)
    moments: Ints = start_us[session] + elapsed - elapsed[offset][session]
    return moments


def _prices(
    world: World, item: npt.NDArray[np.int32], ts_us: Ints, event_type: npt.NDArray[np.uint8]
) -> tuple[Ints, npt.NDArray[np.int16], Truths]:
    """Price and category as of each event, and whether it can have happened: nobody carts or buys what is out of stock."""
    versions = world.items.versions
    named = np.flatnonzero(item >= 0)
    row = versions.at(item[named], ts_us[named])
    price = np.zeros(len(item), dtype=np.int64)
    category = np.full(len(item), -1, dtype=np.int16)
    price[named], category[named] = versions.price[row], versions.category[row]
    is_possible = np.ones(len(item), dtype=np.bool_)
    needs_stock = (event_type[named] == r.CART_CODE) | (event_type[named] == r.PURCHASE_CODE)
    is_possible[named] = versions.in_stock[row] | ~needs_stock
    return price, category, is_possible


def _properties(
    world: World,
    visits: _Visits,
    lists: Lists,
    session: Ints,
    event_type: npt.NDArray[np.uint8],
    item: npt.NDArray[np.int32],
) -> npt.NDArray[np.uint8]:
    """What else is known: the device, for a search the query (the category of what is looked at first)."""
    device = np.minimum(visits.user % 5, NUM_DEVICES - 1)[session]
    properties = device.astype(np.uint8)
    searches = np.flatnonzero(event_type == r.SEARCH_CODE)
    # A search is followed by a look at a product, always.
    properties[searches] = _QUERY_PROPERTIES + world.items.category[item[searches + 1]]
    listed = np.flatnonzero(event_type == r.LIST_CODE)
    properties[listed] = _SURFACE_PROPERTIES + lists.surface[: len(listed)]
    return properties


def property_texts() -> list[str]:
    """JSON by number."""
    texts = [f'{{"device":"{device}"}}' for device in DEVICES]
    texts += [f'{{"surface":"{surface}"}}' for surface in SURFACES]
    return texts + [f'{{"query":"{name.partition(" > ")[2].lower()}"}}' for name in CATEGORIES]


def _requests(
    visits: _Visits, views: _Views, lists: Lists, rows: r.Rows, is_true: Truths, offset: Ints, at: dict[str, Ints]
) -> Request:
    """The lists of the sessions that were kept, with the moments of what came of each place."""
    num_sessions = len(offset)
    asked = np.flatnonzero(visits.has_list[:num_sessions])
    lists = Lists(*(array[: len(asked)] for array in vars(lists).values()))
    request, place = np.nonzero(lists.is_clicked)
    first_view = np.cumsum(visits.num_views[:num_sessions]) - visits.num_views[:num_sessions]
    rank = np.cumsum(lists.is_clicked, axis=1)[request, place] - 1
    view = first_view[asked[request]] + rank

    def outcome(name: str, happened: Truths, values: Ints) -> Ints:
        outcomes = np.zeros((len(asked), PLACES), dtype=np.int64)
        place_of_event = np.where(happened[view], at[name][view], 0)
        is_real = happened[view] & is_true[place_of_event]
        outcomes[request, place] = np.where(is_real, values[place_of_event], 0)
        return outcomes

    worth = rows.price * rows.quantity
    return Request(
        number=rows.number[offset[asked]],
        user=visits.user[asked],
        ts_us=rows.ts_us[offset[asked]],
        lists=lists,
        clicked_us=outcome("clicked", views.is_click, rows.ts_us),
        carted_us=outcome("carted", views.is_cart, rows.ts_us),
        bought_us=outcome("bought", views.is_bought, rows.ts_us),
        value=outcome("bought", views.is_bought, worth),
    )


def make_bots(world: World, day: int, target: int) -> r.Rows:
    """Machines that read page after page around the clock: half a percent of the day's events."""
    rng = stream(world.plan.seed, BOTS, day)
    count = int(target * _BOT_SHARE) if world.num_bots else 0
    item = Assortment(world, day).anything(rng, count).astype(np.int32)
    ts_us = world.plan.start_us + day * US_PER_DAY + rng.integers(0, US_PER_DAY, count)
    event_type = np.full(count, r.VIEW_CODE, dtype=np.uint8)
    price, category, _ = _prices(world, item, ts_us, event_type)
    return r.Rows(
        number=(np.int64(day) << 40) + (np.int64(1) << 38) + np.arange(count),
        ts_us=ts_us,
        user=(world.plan.users + np.arange(count) % max(world.num_bots, 1)).astype(np.int32),
        item=item,
        event_type=event_type,
        quantity=np.zeros(count, dtype=np.int16),
        price=price,
        category=category,
        basket=np.full(count, -1, dtype=np.int64),
        properties=np.ones(count, dtype=np.uint8),
    )
