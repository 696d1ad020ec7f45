"""Nearest titles: rare words count more, order is total, whoever has nothing gets the candidates' own order."""

import numpy as np

from endcap.models.title_neighbors import TitleNeighbors

TITLES = ["RED HEART LANTERN", "red heart", "blue clock", None, "green LANTERN", "clock heart"]


def test_the_nearest_title_by_hand():
    neighbors = TitleNeighbors(TITLES, np.array([3, 4, 2, 5]))
    own = [np.array([0]), np.array([1, 1]), np.array([], np.int64), np.array([2, 5])]
    ranked = neighbors.rank(own, 5)
    # "lantern" stands in fewer titles than "heart", and its other title is as short.
    assert ranked[0].tolist() == [1, 3, 0, 2, -1]
    assert ranked[1].tolist() == [3, 0, 1, 2, -1]
    assert ranked[2].tolist() == [0, 1, 2, 3, -1]
    assert set(ranked[3][:2].tolist()) == {2, 3}


def test_shorter_lists_are_cut():
    assert TitleNeighbors(TITLES, np.array([4, 5])).rank([np.array([0])], 1).tolist() == [[0]]
