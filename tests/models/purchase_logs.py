"""A small shop's purchases by hand, and any shop's drawn by hypothesis."""

import numpy as np
from hypothesis import strategies as st

from endcap.models.purchases import DAY_US, PurchaseLog

SPLIT = 100 * DAY_US

# user, item, basket, day. Items 0 to 5; item 5 is bought by nobody.
LINES = [
    (0, 0, 0, 10),
    (0, 1, 0, 10),
    (0, 0, 1, 80),
    (1, 1, 2, 85),
    (1, 2, 2, 85),
    (2, 2, 3, 90),
    (2, 1, 3, 90),
    (2, 3, 3, 90),
    (2, 3, 4, 99),
    (3, 4, 5, 20),
]


def log(lines=LINES, num_users=5, num_items=6):
    users, items, baskets, days = (np.array(column, dtype=np.int64) for column in zip(*lines, strict=True))
    return PurchaseLog(users, items, baskets, days * DAY_US, num_users, num_items)


def rank(baseline, users, k=6, *, exclude_seen=False):
    return baseline.recommend(np.array(users), k, exclude_seen=exclude_seen).item_nums.tolist()


@st.composite
def logs(draw):
    num_users, num_items = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    line = st.tuples(
        st.integers(0, num_users - 1), st.integers(0, num_items - 1), st.integers(0, 5), st.integers(1, 99)
    )
    return log(draw(st.lists(line, min_size=1, max_size=40)), num_users, num_items)
