"""Neighbors: weights worked by hand, and against a count over every pair."""

import itertools
import math

import numpy as np

from endcap.models.neighbors import count_neighbors

MINUTE_US = 60_000_000


def counted(acts, num_items, num_neighbors, **settings):
    users, items, minutes = (np.array(column) for column in zip(*acts, strict=True))
    return count_neighbors(users, items, minutes * MINUTE_US, num_items, num_neighbors, **settings)


def test_weights_of_two_sessions():
    # Anna meets 0, 1 and 2 in one session, an hour later 0 and 1; Bert 2 alone. Nobody meets 3.
    acts = [(0, 0, 0), (0, 1, 5), (0, 2, 30), (0, 1, 31), (0, 0, 120), (0, 1, 121), (1, 2, 0)]
    tables = counted(acts, 4, 2, popularity=0.5, shrink=1.0)
    three = 2**-0.25  # what the session of three counts
    pair, single = 1 + three, three
    assert tables.items_NK.tolist() == [[1, 2], [0, 2], [0, 1], [-1, -1]]
    far = single / 2 * single / (single + 1)
    np.testing.assert_allclose(
        tables.weights_NK,
        [[pair / 2 * pair / (pair + 1), far], [pair / 2 * pair / (pair + 1), far], [far, far], [0, 0]],
        rtol=1e-6,
    )


def test_what_leads_from_a_product_may_not_lead_back():
    # 0 is met with each of the others once: of its equal neighbors the lower numbers are kept.
    acts = [(user, item, 0) for user in range(1, 5) for item in (0, user)]
    tables = counted(acts, 5, 2, popularity=0.0, shrink=0.0)
    assert tables.items_NK.tolist() == [[1, 2], *[[0, -1]] * 4]
    np.testing.assert_allclose(tables.weights_NK, [[0.5, 0.5], *[[1, 0]] * 4])


def test_every_pair_counted_one_by_one():
    rng = np.random.default_rng(2)
    acts = [(int(rng.integers(9)), int(rng.integers(12)), int(rng.integers(300))) for _ in range(150)]
    tables = counted(acts, 12, 12, popularity=0.25, shrink=2.0)
    sessions, last = {}, {}
    for user, item, minute in sorted(acts, key=lambda act: (act[0], act[2])):
        number, before = last.get(user, (0, minute))
        last[user] = (number + (minute - before > 30), minute)
        sessions.setdefault((user, last[user][0]), set()).add(item)
    shared, held = np.zeros((12, 12)), np.zeros(12)
    for items in sessions.values():
        for item in items:
            held[item] += 1
        for one, other in itertools.permutations(items, 2):
            shared[one, other] += (len(items) - 1) ** -0.25
    for one in range(12):
        weights = {
            other: count / math.sqrt(held[one]) / held[other] ** 0.25 * count / (count + 2)
            for other, count in enumerate(shared[one])
            if count
        }
        found = dict(zip(tables.items_NK[one].tolist(), tables.weights_NK[one].tolist(), strict=True))
        found.pop(-1, None)
        assert found.keys() == weights.keys()
        np.testing.assert_allclose([found[other] for other in weights], list(weights.values()), rtol=1e-6)
        assert np.all(np.diff(tables.weights_NK[one]) <= 0)


def test_without_acts_there_are_no_neighbors():
    none = np.zeros(0, np.int64)
    tables = count_neighbors(none, none, none, 3, 2)
    assert (tables.items_NK == -1).all()
    assert not tables.weights_NK.any()
