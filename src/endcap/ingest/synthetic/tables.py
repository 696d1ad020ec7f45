"""Numbers of made-up events, lists and products in, Arrow tables with their text out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts import columns as c
from endcap.contracts.events import ADD_TO_CART, MONEY, PURCHASE, SELECT_ITEM, US_PER_DAY
from endcap.ingest.synthetic import rows as r
from endcap.ingest.synthetic.draws import hex_bytes, mixed
from endcap.ingest.synthetic.lists import SURFACES, VARIANTS
from endcap.ingest.synthetic.sessions import Request, property_texts
from endcap.ingest.synthetic.world import CATEGORIES, NEVER_US, World, brand_names, titles

CURRENCY: Final = "EUR"
EXPERIMENT: Final = "list-temperature"
_EVENT_SALT, _BASKET_SALT, _REQUEST_SALT, _GUEST_SALT, _KEY_SALT = range(11, 16)
_MOMENT: Final = pa.timestamp("us", tz="UTC")


def _hex(
    numbers: npt.NDArray[Any], salt: int, prefix: bytes = b"", is_null: npt.NDArray[np.bool_] | None = None
) -> Any:
    """Numbers as `prefix` and 16 hexadecimal digits each."""
    width = len(prefix) + 16
    text = np.empty((len(numbers), width), dtype=np.uint8)
    text[:, : len(prefix)] = np.frombuffer(prefix, dtype=np.uint8)
    text[:, len(prefix) :] = hex_bytes(mixed(numbers, salt))
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * width
    plain = pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(text))
    return plain if is_null is None else pc.if_else(pa.array(~is_null), plain, None)


def _numbered(prefix: str, count: int, digits: int = 7) -> pa.Array:
    numbers = pc.utf8_lpad(pc.cast(pa.array(np.arange(count)), pa.string()), digits, "0")
    return pc.binary_join_element_wise(prefix, numbers, "")


def money(ten_thousandths: npt.NDArray[np.int64], is_null: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Ten-thousandths as the tables' decimals."""
    words = np.empty((len(ten_thousandths), 2), dtype=np.int64)
    words[:, 0], words[:, 1] = ten_thousandths, ten_thousandths >> 63
    plain = pa.Array.from_buffers(MONEY, len(ten_thousandths), [None, pa.py_buffer(words)])
    return plain if is_null is None else pc.if_else(pa.array(~is_null), plain, pa.scalar(None, MONEY))


def _coded(codes: npt.NDArray[Any], values: list[str], is_null: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32), mask=is_null), pa.array(values))


class Texts:
    """Turns one world's numbers into text."""

    def __init__(self, world: World, user_key: Callable[[str], str] | None = None) -> None:
        """Write down every id once; `user_key` hashes those of the logs."""
        plan = world.plan
        self._world = world
        self._salt = plan.seed * 64
        self._item_ids = _numbered("i", plan.items)
        self._user_ids = pa.concat_arrays([_numbered("u", plan.users), _numbered("bot", world.num_bots, 3)])
        self._guest_ids = _hex(np.arange(plan.users), self._salt + _GUEST_SALT, b"g")
        self._keys = self._hashed(world, user_key)
        self._login_us = np.concatenate([world.people.login_us, np.zeros(world.num_bots, dtype=np.int64)])
        self._categories, self._brands, self._properties = list(CATEGORIES), list(brand_names()), property_texts()

    def _hashed(self, world: World, user_key: Callable[[str], str] | None) -> pa.Array:
        """Each person's name in the logs: of the user that they are sooner or later, or of the guest that they stay."""
        count = world.plan.users
        if user_key is None:
            return _hex(np.arange(count), self._salt + _KEY_SALT)
        stays_guest = pa.array(world.people.login_us >= NEVER_US)
        ids = pc.if_else(stays_guest, self._guest_ids, self._user_ids.slice(0, count))
        return pa.array([user_key(user_id) for user_id in ids.to_pylist()], pa.string())

    def is_guest(self, rows: r.Rows) -> npt.NDArray[np.bool_]:
        """Whether the event's person wasn't logged in yet."""
        guests: npt.NDArray[np.bool_] = rows.ts_us < self._login_us[rows.user]
        return guests

    def events(self, rows: r.Rows) -> pa.Table:
        """Events by the contract's names; a guest has a `guest_id` alone, somebody who logged in both ids."""
        is_guest, was_guest = self.is_guest(rows), self._login_us[rows.user] > 0
        has_item, has_quantity = rows.item >= 0, rows.quantity > 0
        items = np.where(has_item, rows.item, 0)
        return pa.table(
            {
                c.EVENT_ID: _hex(rows.number, self._salt + _EVENT_SALT),
                c.USER_ID: self._user_ids.take(pa.array(rows.user, mask=is_guest)),
                c.GUEST_ID: self._guest_ids.take(pa.array(np.where(was_guest, rows.user, 0), mask=~was_guest)),
                c.ITEM_ID: self._item_ids.take(pa.array(items, mask=~has_item)),
                c.EVENT_TYPE: _coded(rows.event_type, list(r.TYPES)),
                c.TS_US: rows.ts_us,
                c.VALUE: money(rows.price * rows.quantity, ~has_quantity),
                c.PRICE: money(rows.price, ~has_item),
                c.QUANTITY: pa.array(rows.quantity.astype(np.int64), mask=~has_quantity),
                c.CURRENCY: _coded(np.zeros(len(rows)), [CURRENCY], ~has_item),
                c.CATEGORY: _coded(np.maximum(rows.category, 0), self._categories, ~has_item),
                c.BRAND: _coded(self._world.items.brand[items], self._brands, ~has_item),
                c.BASKET_ID: _hex(rows.basket, self._salt + _BASKET_SALT, b"o", rows.basket < 0),
                c.PROPERTIES: _coded(rows.properties, self._properties),
            }
        )

    def requests(self, request: Request) -> pa.Table:
        """The log of lists: one row per request."""
        lists = request.lists
        is_shown = lists.items >= 0
        offsets = pa.array(np.concatenate([[0], np.cumsum(is_shown.sum(axis=1))]).astype(np.int32))
        places = np.broadcast_to(np.arange(1, is_shown.shape[1] + 1), is_shown.shape)
        digest = bytes(hex_bytes(mixed(np.arange(4), self._salt)).ravel()).decode()
        count = len(request.number)

        def listed(values: pa.Array) -> pa.Array:
            return pa.ListArray.from_arrays(offsets, values)

        return pa.table(
            {
                c.REQUEST_ID: _hex(request.number, self._salt + _REQUEST_SALT, b"r"),
                "user_key": self._keys.take(pa.array(request.user)),
                "request_time": pa.array(request.ts_us).cast(_MOMENT),
                c.RELEASE_DIGEST: pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), [digest]),
                c.SURFACE: _coded(lists.surface, list(SURFACES)),
                "item_ids": listed(self._item_ids.take(pa.array(lists.items[is_shown]))),
                "scores": listed(pa.array(lists.scores[is_shown])),
                "positions": listed(pa.array(places[is_shown])),
                "propensities": listed(pa.array(lists.propensities[is_shown])),
                c.EXPERIMENT: _coded(np.zeros(count), [EXPERIMENT]),
                c.VARIANT: _coded(lists.variant, list(VARIANTS)),
            }
        )

    def feedback(self, request: Request) -> pa.Table:
        """The log of what came of them, in the order of time."""
        parts = []
        outcomes = ((SELECT_ITEM, request.clicked_us), (ADD_TO_CART, request.carted_us), (PURCHASE, request.bought_us))
        for event_type, moments in outcomes:
            row, place = np.nonzero(moments)
            values = request.value[row, place]
            parts.append(
                pa.table(
                    {
                        c.REQUEST_ID: _hex(request.number[row], self._salt + _REQUEST_SALT, b"r"),
                        c.ITEM_ID: self._item_ids.take(pa.array(request.lists.items[row, place])),
                        c.EVENT_TYPE: pa.array([event_type]).take(pa.array(np.zeros(len(row), dtype=np.int32))),
                        "event_time": pa.array(moments[row, place]).cast(_MOMENT),
                        c.VALUE: money(values, np.full(len(values), event_type != PURCHASE)),
                    }
                )
            )
        return pa.concat_tables(parts).sort_by([("event_time", "ascending"), (c.REQUEST_ID, "ascending")])

    def item_versions(self) -> pa.Table:
        """What held of each product from when to when; products that come into the shop begin with their first day."""
        versions, items = self._world.items.versions, self._world.items
        is_last = np.append(versions.item[1:] != versions.item[:-1], True)
        until = np.append(versions.valid_from_us[1:], 0)
        return pa.table(
            {
                c.ITEM_ID: self._item_ids.take(pa.array(versions.item)),
                c.VALID_FROM_US: versions.valid_from_us,
                c.VALID_TO_US: pa.array(until, mask=is_last),
                c.TITLE: pa.array(titles(items)).take(pa.array(versions.item)),
                c.CATEGORY: _coded(versions.category, self._categories),
                c.BRAND: _coded(items.brand[versions.item], self._brands),
                c.GROUP_ID: _numbered("p", int(items.family[-1]) + 1).take(pa.array(items.family[versions.item])),
                c.PRICE: money(versions.price),
                c.CURRENCY: _coded(np.zeros(len(until)), [CURRENCY]),
                c.IN_STOCK: versions.in_stock,
            }
        )

    def items(self) -> pa.Table:
        """The catalog as of the end."""
        versions = self.item_versions()
        return versions.filter(pc.is_null(versions[c.VALID_TO_US])).drop_columns([c.VALID_FROM_US, c.VALID_TO_US])


def day_of(ts_us: npt.NDArray[np.int64], start_us: int) -> npt.NDArray[np.int64]:
    """Days since the first, from 0."""
    days: npt.NDArray[np.int64] = (ts_us - start_us) // US_PER_DAY
    return days
