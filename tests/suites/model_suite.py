"""What every model must do, whichever it is: a class of tests that each model inherits with an adapter of its own.

A checkerboard of two groups: customers of a group buy its products alone, each all but one, and group 1 buys twice as
often. Who tells the groups apart knows which product is missing; popularity is right for group 1 alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import pytest

NUM_GROUPS, NUM_CUSTOMERS, NUM_PRODUCTS = 2, 8, 8  # in each group
FIRST_DAY, LAST_DAY = 90, 99
SCORES = {"rtol": 1e-4, "atol": 1e-4}


@dataclass(frozen=True)
class Purchase:
    """One line: who bought what on which day."""

    user_id: str
    item_id: str
    day: int


@dataclass(frozen=True)
class Asked:
    """Somebody to recommend to, and what they bought before, the longest ago first; known ids are `u0`, `u1`, …."""

    user_id: str
    history: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """Products, best first, and their scores."""

    item_ids: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Shop:
    """What a model is fitted on: the catalog, the purchases in time order."""

    items: tuple[str, ...]
    purchases: tuple[Purchase, ...]

    def history(self, user_id: str) -> tuple[str, ...]:
        """Distinct products of a customer, by their last purchase."""
        last = {line.item_id: None for line in reversed(self.purchases) if line.user_id == user_id}
        return tuple(reversed(last))


class Fitted(Protocol):
    """A model that was fitted on a shop."""

    def recommend(self, asked: Sequence[Asked], k: int, *, exclude_seen: bool) -> list[Answer]:
        """At most `k` products for each; with `exclude_seen` none of the history."""
        ...

    def numbers(self) -> Mapping[str, np.ndarray]:
        """All that was learned, by name."""
        ...


class Adapter(Protocol):
    """How the suite fits one model."""

    def fit(self, shop: Shop, seed: int) -> Fitted:
        """Fit on a shop; every random stream starts from `seed`."""
        ...


class StoredAdapter(Adapter, Protocol):
    """The same for a model that is saved and released."""

    def through_files(self, fitted: Fitted, folder: Path) -> Fitted:
        """Save into `folder`, and load from there."""
        ...

    def exported(self, fitted: Fitted, folder: Path) -> Fitted:
        """Export to ONNX into `folder`, and answer by the graphs alone."""
        ...


def checkerboard() -> tuple[Shop, dict[Asked, str]]:
    """The shop, and the product that each customer lacks of their group's."""
    shop: list[Purchase] = []
    for group in range(NUM_GROUPS):
        for number in range(NUM_CUSTOMERS):
            owned = [(number + step) % NUM_PRODUCTS for step in range(1, NUM_PRODUCTS)]
            for again in range(1 + group):
                # A product a day, so that a history tells what comes next.
                shop += [
                    Purchase(
                        f"u{group * NUM_CUSTOMERS + number}",
                        f"p{group * NUM_PRODUCTS + item}",
                        FIRST_DAY + again + place,
                    )
                    for place, item in enumerate(owned)
                ]
    items = tuple(f"p{number}" for number in range(NUM_GROUPS * NUM_PRODUCTS))
    board = Shop(items, tuple(sorted(shop, key=lambda line: (line.day, line.user_id, line.item_id))))
    lacking = {
        Asked(user_id, board.history(user_id)): f"p{group * NUM_PRODUCTS + number % NUM_PRODUCTS}"
        for group in range(NUM_GROUPS)
        for number in range(NUM_CUSTOMERS)
        for user_id in [f"u{group * NUM_CUSTOMERS + number}"]
    }
    return board, lacking


class ModelSuite:
    """What every model must do. A model's own class is named `Test…` and sets `adapter`."""

    adapter: ClassVar[Adapter]
    starts_at_random: ClassVar[bool] = False
    """Whether another seed gives other numbers."""

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls) -> Fitted:
        """The model on the checkerboard."""
        return cls.adapter.fit(checkerboard()[0], 7)

    def test_an_unknown_user_gets_an_answer_that_tells_nothing_of_them(self, fitted: Fitted) -> None:
        one, other = fitted.recommend([Asked("nobody"), Asked("somebody else")], 5, exclude_seen=False)
        assert one.item_ids == other.item_ids
        np.testing.assert_allclose(one.scores, other.scores, **SCORES)
        assert len(set(one.item_ids)) == 5
        assert np.isfinite(one.scores).all()
        assert list(one.scores) == sorted(one.scores, reverse=True)

    def test_an_empty_history_of_a_known_user(self, fitted: Fitted) -> None:
        for exclude_seen in (False, True):
            (answer,) = fitted.recommend([Asked("u0")], 16, exclude_seen=exclude_seen)
            assert sorted(answer.item_ids) == sorted(checkerboard()[0].items)
            assert np.isfinite(answer.scores).all()

    def test_what_was_seen_is_left_out_on_demand_and_no_product_stands_twice(self, fitted: Fitted) -> None:
        asked = list(checkerboard()[1])
        for customer, answer in zip(asked, fitted.recommend(asked, 16, exclude_seen=True), strict=True):
            assert len(set(answer.item_ids)) == len(answer.item_ids) == 16 - len(customer.history)
            assert not set(answer.item_ids) & set(customer.history)

    def test_who_is_asked_for_beside_whom_changes_nothing(self, fitted: Fitted) -> None:
        asked = [*list(checkerboard()[1])[::5], Asked("nobody")]
        together = fitted.recommend(asked, 6, exclude_seen=False)
        for alone, answer in zip(asked, together, strict=True):
            (found,) = fitted.recommend([alone], 6, exclude_seen=False)
            np.testing.assert_allclose(found.scores, answer.scores, **SCORES)

    def test_a_catalog_of_one(self) -> None:
        lines = tuple(Purchase(f"u{number}", "p0", FIRST_DAY + day) for number in range(4) for day in (0, 4))
        fitted = self.adapter.fit(Shop(("p0",), lines), 7)
        asked = [Asked("u0", ("p0",)), Asked("nobody")]
        assert [answer.item_ids for answer in fitted.recommend(asked, 3, exclude_seen=False)] == [("p0",), ("p0",)]
        assert [answer.item_ids for answer in fitted.recommend(asked, 3, exclude_seen=True)] == [(), ("p0",)]

    def test_the_same_seed_gives_the_same_numbers_to_the_last_bit(self, fitted: Fitted) -> None:
        again = self.adapter.fit(checkerboard()[0], 7)
        found, expected = again.numbers(), fitted.numbers()
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        asked = list(checkerboard()[1])
        assert again.recommend(asked, 16, exclude_seen=False) == fitted.recommend(asked, 16, exclude_seen=False)

    def test_another_seed_gives_others_where_a_model_starts_at_random(self) -> None:
        board, _ = checkerboard()
        first_days = Shop(board.items, board.purchases[:32])  # few, which a model is soon done with
        one, other = (self.adapter.fit(first_days, seed).numbers() for seed in (7, 8))
        differs = any(not np.array_equal(other[name], values) for name, values in one.items())
        assert differs == self.starts_at_random


class PersonalSuite(ModelSuite):
    """What a personalized model must do as well."""

    def test_it_beats_popularity_on_a_checkerboard(self, fitted: Fitted) -> None:
        shop, lacking = checkerboard()
        answers = fitted.recommend(list(lacking), 1, exclude_seen=True)
        found = np.mean([answer.item_ids == (item,) for answer, item in zip(answers, lacking.values(), strict=True)])
        counts = {item: sum(line.item_id == item for line in shop.purchases) for item in shop.items}
        popular = np.mean([
            max((other for other in shop.items if other not in asked.history), key=counts.__getitem__) == item
            for asked, item in lacking.items()
        ])  # fmt: skip
        assert popular <= 0.5
        assert found >= 0.9


class StoredSuite(ModelSuite):
    """What a model that is saved and released must do as well."""

    adapter: ClassVar[StoredAdapter]

    @pytest.fixture
    def everybody(self) -> list[Asked]:
        """Customers with and without a history, known and unknown, one with strange products."""
        shop, lacking = checkerboard()
        return [*lacking, Asked("nobody"), Asked("u0"), Asked("nobody", shop.items[:3]), Asked("u1", ("p1", "gone"))]

    def test_saved_and_loaded_it_answers_the_same(self, fitted: Fitted, everybody: list[Asked], tmp_path: Path) -> None:
        loaded = self.adapter.through_files(fitted, tmp_path)
        assert loaded is not fitted
        assert loaded.recommend(everybody, 16, exclude_seen=False) == fitted.recommend(
            everybody, 16, exclude_seen=False
        )

    def test_the_exported_graphs_answer_the_same(self, fitted: Fitted, everybody: list[Asked], tmp_path: Path) -> None:
        graphs = self.adapter.exported(fitted, tmp_path)
        for exclude_seen in (False, True):
            found = graphs.recommend(everybody, 16, exclude_seen=exclude_seen)
            for answer, expected in zip(found, fitted.recommend(everybody, 16, exclude_seen=exclude_seen), strict=True):
                scores = dict(zip(answer.item_ids, answer.scores, strict=True))
                assert scores.keys() == set(expected.item_ids)
                np.testing.assert_allclose([scores[item] for item in expected.item_ids], expected.scores, **SCORES)
