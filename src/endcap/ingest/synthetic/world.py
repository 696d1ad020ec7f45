"""A plan in, the shop's products with their prices and stock over time, and its people with their tastes, out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from endcap.contracts.events import US_PER_DAY
from endcap.ingest.synthetic.draws import WORLD, Floats, Ints, Truths, draw, stream
from endcap.ingest.synthetic.plan import Plan

DEPARTMENTS: Final = {
    "Home": ("Mugs", "Lamps", "Rugs", "Storage", "Bedding"),
    "Kitchen": ("Coffee", "Tea", "Spices", "Knives", "Pans"),
    "Beauty": ("Shampoo", "Skin care", "Soap", "Perfume", "Make-up"),
    "Pets": ("Dog food", "Cat food", "Toys for dogs", "Litter", "Leashes"),
    "Baby": ("Nappies", "Bottles", "Prams", "Baby toys", "Bodysuits"),
    "Fashion": ("Shirts", "Trousers", "Dresses", "Shoes", "Bags"),
    "Sports": ("Running", "Cycling", "Yoga", "Camping", "Protein"),
    "Electronics": ("Headphones", "Cables", "Chargers", "Cameras", "Speakers"),
    "Office": ("Paper", "Pens", "Ink", "Desks", "Chairs"),
    "Garden": ("Seeds", "Tools", "Pots", "Furniture", "Soil"),
    "Books": ("Novels", "Cookbooks", "Travel", "Children", "Science"),
    "Games": ("Board games", "Puzzles", "Cards", "Models", "Consoles"),
}
CATEGORIES: Final = tuple(f"{department} > {leaf}" for department, leaves in DEPARTMENTS.items() for leaf in leaves)
_CONSUMABLE: Final = ("Kitchen", "Beauty", "Pets", "Baby", "Office")
_ADJECTIVES: Final = ("Classic", "Nordic", "Soft", "Bold", "Tiny", "Grand", "Green", "Daily", "Pure", "Urban")
_BRANDS: Final = tuple(f"{first}{second}" for first in ("Al", "Bor", "Cas", "Del") for second in ("ta", "via", "mo"))
NUM_TIERS: Final = 3
NUM_GROUPS: Final = len(CATEGORIES) * NUM_TIERS
NUM_STAPLES: Final = 2
_TIER_FACTORS: Final = np.array([0.6, 1.0, 1.9])
_CATALOG_DAYS_BEFORE: Final = 90
_US_PER_MINUTE: Final = 60_000_000
NEVER_US: Final = 2**62


@dataclass(frozen=True)
class Versions:
    """What held of each product from which moment on; rows in the order of (item, valid_from_us)."""

    item: Ints
    valid_from_us: Ints
    price: Ints
    """In ten-thousandths, the scale of the tables' money."""
    in_stock: Truths
    category: Ints
    origin_us: int
    keys: Ints
    """Item and minute in one number, for the search."""

    def at(self, item: npt.NDArray[np.integer[Any]], ts_us: Ints) -> Ints:
        """The row that held for each item at its moment."""
        return np.searchsorted(self.keys, _version_key(item, ts_us, self.origin_us), side="right") - 1


@dataclass(frozen=True)
class Items:
    """Products by number; `group` is category and price tier in one, the unit of taste."""

    category: Ints
    tier: Ints
    group: Ints
    brand: Ints
    family: Ints
    """Variants of one product share it."""
    popularity: Floats
    launch_day: Ints
    repeat_days: Ints
    """Days after which it is bought again; 0 for what isn't used up."""
    versions: Versions


@dataclass(frozen=True)
class People:
    """Users by number."""

    activity: Floats
    first_day: Ints
    tastes: Ints
    """Three favourite categories each (n, 3), the dearest first."""
    tier: Ints
    login_us: Ints
    """A guest before, known from then on; 0 for somebody known from the start."""
    staples: Ints
    """Products bought again and again (n, NUM_STAPLES), -1 for none."""
    staple_phase: Ints


@dataclass(frozen=True)
class World:
    """The shop."""

    plan: Plan
    items: Items
    people: People
    num_bots: int


def make_world(plan: Plan) -> World:
    """Make up products and people."""
    rng = stream(plan.seed, WORLD)
    items = _make_items(plan, rng)
    events_per_day = plan.num_events / plan.num_days
    num_bots = max(1, round(0.005 * events_per_day / 2500)) if events_per_day >= 2000 else 0
    return World(plan=plan, items=items, people=_make_people(plan, items, rng), num_bots=num_bots)


def _make_items(plan: Plan, rng: np.random.Generator) -> Items:
    count = plan.items
    # A family's variants stand side by side and share category, brand and tier.
    family = np.cumsum(np.concatenate([[True], rng.random(count - 1) < 0.75])) - 1
    num_families = int(family[-1]) + 1
    shares = 1.0 / np.arange(4, 4 + len(CATEGORIES)) ** 0.7
    category_of_family = draw(rng, rng.permutation(shares), num_families)
    tier_of_family = rng.integers(0, NUM_TIERS, num_families)
    brand_of_family = rng.integers(0, len(_BRANDS), num_families)
    category, tier, brand = category_of_family[family], tier_of_family[family], brand_of_family[family]
    is_consumable = np.array([name.partition(" > ")[0] in _CONSUMABLE for name in CATEGORIES])[category]
    repeat_days = np.where(is_consumable, rng.integers(5, 36, count), 0)
    launch_day = np.where(rng.random(count) < 0.2, rng.integers(1, max(plan.num_days, 2), count), 0)
    launch_day[0] = 0  # The shop never stands empty.
    launch_day[launch_day >= plan.num_days] = 0
    typical = np.exp(rng.normal(3.0, 0.5, len(CATEGORIES)))[category] * _TIER_FACTORS[tier]
    cents = np.maximum(np.rint(100 * typical * np.exp(rng.normal(0, 0.25, count))), 50).astype(np.int64)
    return Items(
        category=category,
        tier=tier,
        group=category * NUM_TIERS + tier,
        brand=brand,
        family=family,
        popularity=rng.permutation(1.0 / (np.arange(count) + 5.0)),
        launch_day=launch_day,
        repeat_days=repeat_days,
        versions=_make_versions(plan, rng, launch_day, cents * 100, category),
    )


def _make_versions(plan: Plan, rng: np.random.Generator, launch_day: Ints, price: Ints, category: Ints) -> Versions:
    """Offers, lasting price changes, stock-outs and moves to another category, at whole minutes."""
    count = len(price)
    origin_us = plan.start_us - _CATALOG_DAYS_BEFORE * US_PER_DAY
    from_us = np.where(launch_day > 0, plan.start_us + launch_day * US_PER_DAY, origin_us)
    minutes = plan.num_days * US_PER_DAY // _US_PER_MINUTE

    def spells(share: float, longest_days: int) -> tuple[Ints, Ints, Ints]:
        item = np.flatnonzero(rng.random(count) < share)
        begin = from_us[item] + rng.integers(1, minutes + 1, len(item)) * _US_PER_MINUTE
        begin = np.maximum(begin, plan.start_us + _US_PER_MINUTE)
        return item, begin, begin + rng.integers(120, longest_days * 1440 + 1, len(item)) * _US_PER_MINUTE

    offers, stockouts = spells(0.3, 7), spells(0.15, 4)
    raises, moves = spells(0.2, 1), spells(0.01, 1)
    # Moments at which a product may change: its first, and both ends of what befalls it.
    item = np.concatenate([np.arange(count), offers[0], offers[0], stockouts[0], stockouts[0], raises[0], moves[0]])
    at_us = np.concatenate([from_us, offers[1], offers[2], stockouts[1], stockouts[2], raises[1], moves[1]])
    keys = np.unique(_version_key(item, at_us, origin_us))
    item, at_us = keys >> _MINUTE_BITS, (keys & (2**_MINUTE_BITS - 1)) * _US_PER_MINUTE + origin_us

    def holds(spell: tuple[Ints, Ints, Ints], open_ended: bool = False) -> Truths:
        begin, end = np.full(count, NEVER_US), np.full(count, NEVER_US)
        begin[spell[0]], end[spell[0]] = spell[1], spell[2]
        is_held: Truths = (begin[item] <= at_us) & (open_ended | (at_us < end[item]))
        return is_held

    factor = np.where(holds(offers), 80, 100) * np.where(holds(raises, open_ended=True), 107, 100)
    moved = np.where(holds(moves, open_ended=True), (category[item] + 1) % len(CATEGORIES), category[item])
    prices = price[item] * factor // 10_000 // 100 * 100
    in_stock = ~holds(stockouts)
    # Neighbours that say the same are one range.
    is_change = np.ones(len(keys), dtype=np.bool_)
    is_change[1:] = (
        (item[1:] != item[:-1])
        | (prices[1:] != prices[:-1])
        | (in_stock[1:] != in_stock[:-1])
        | (moved[1:] != moved[:-1])
    )
    is_change &= at_us < plan.end_us
    return Versions(
        item=item[is_change],
        valid_from_us=at_us[is_change],
        price=prices[is_change],
        in_stock=in_stock[is_change],
        category=moved[is_change],
        origin_us=origin_us,
        keys=keys[is_change],
    )


_MINUTE_BITS: Final = 30


def _version_key(item: npt.NDArray[np.integer[Any]], ts_us: Ints, origin_us: int) -> Ints:
    key: Ints = (item.astype(np.int64) << _MINUTE_BITS) + (ts_us - origin_us) // _US_PER_MINUTE
    return key


def _make_people(plan: Plan, items: Items, rng: np.random.Generator) -> People:
    count = plan.users
    has_arrived = rng.random(count) < 0.6
    first_day = np.where(has_arrived, 0, rng.integers(0, plan.num_days, count))
    weights = np.bincount(items.category, weights=items.popularity, minlength=len(CATEGORIES)) + 1e-9
    tastes = draw(rng, np.sqrt(weights), count * 3).reshape(count, 3)
    tier = rng.integers(0, NUM_TIERS, count)
    is_guest = rng.random(count) < 0.3
    logs_in = rng.random(count) < 0.8
    first_us = plan.start_us + first_day * US_PER_DAY
    login_us = first_us + (rng.random(count) * (plan.end_us - first_us)).astype(np.int64)
    login_us = np.where(is_guest, np.where(logs_in, login_us, NEVER_US), 0)
    consumable = np.flatnonzero((items.repeat_days > 0) & (items.launch_day == 0))
    staples = np.full((count, NUM_STAPLES), -1, dtype=np.int64)
    if len(consumable):
        chosen = draw(rng, items.popularity[consumable], count * NUM_STAPLES).reshape(count, NUM_STAPLES)
        has_staple = rng.random((count, NUM_STAPLES)) < np.array([0.4, 0.15])
        staples = np.where(has_staple, consumable[chosen], -1)
    activity = rng.lognormal(0.0, 1.1, count)
    phase: npt.NDArray[np.int64] = rng.integers(0, 1_000, (count, NUM_STAPLES))
    return People(activity, first_day, tastes, tier, login_us, staples, phase)


def brand_names() -> tuple[str, ...]:
    """Brands by number."""
    return _BRANDS


def titles(items: Items) -> list[str]:
    """A name for each product; variants of one family differ in their last word."""
    first_of_family = np.flatnonzero(np.concatenate([[True], np.diff(items.family) > 0]))
    variant = np.arange(len(items.family)) - first_of_family[items.family]
    nouns = [name.partition(" > ")[2] for name in CATEGORIES]
    return [
        f"{_BRANDS[brand]} {_ADJECTIVES[family % len(_ADJECTIVES)]} {nouns[category]} {family} No. {number + 1}"
        for brand, family, category, number in zip(
            items.brand.tolist(), items.family.tolist(), items.category.tolist(), variant.tolist(), strict=True
        )
    ]
