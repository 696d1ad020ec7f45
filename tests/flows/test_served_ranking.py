"""A multitask release, trained and served: what the server says of pairs is what `rank.onnx` says of the same raw rows."""

import numpy as np
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest

from endcap.contracts.release import CANDIDATE_IDS, ITEMS, RANK_GRAPH, USER_FEATURES
from tests.flows.live_server import ask, serving

MOMENT_US = 1_302_000_000_000_000


@pytest.fixture(scope="module")
def release(rated_shop):
    return rated_shop.result.release


@pytest.fixture(scope="module")
def url(release):
    with serving(release.path) as address:
        yield address


def said(release, user, items, **history):
    """What the graph says of a customer's raw row with each of the products; `history` stands instead of the row's."""
    session = ort.InferenceSession(str(release.file(RANK_GRAPH)), providers=["CPUExecutionProvider"])
    ranking = release.manifest.ranking
    column_of = {one.tensor.name: one.column for one in ranking.product_inputs}
    products = {row["item_id"]: row for row in pq.read_table(release.file(ITEMS)).to_pylist()}
    feeds = {}
    for node in session.get_inputs():
        kind = {"tensor(string)": object, "tensor(float)": np.float32}.get(node.type, np.int64)
        missing = "" if kind is object else np.nan if kind is np.float32 else 0
        if node.name in column_of:
            raw = [products[item][column_of[node.name]] for item in items]
        else:
            raw = [(user | {"event_time_us": MOMENT_US} | history)[node.name]] * len(items)
        if isinstance(raw[0], list):
            feeds[node.name] = np.array([[0 if one is None else one for one in row] for row in raw], kind)
        else:
            feeds[node.name] = np.array([missing if one is None else one for one in raw], kind)
    return session.run([ranking.prediction_output], feeds)[0]


def served(url, user, items, **more):
    asked = {"user_id": user["user_id"], "event_time_us": MOMENT_US, "item_id": items, **more}
    (found,) = ask(url, signature_name="serve_ranking", instances=[asked])
    assert found["product_ids"] == items
    return found["scores"]


def test_what_is_served_is_what_the_graph_says_of_raw_rows(release, url):
    products = pq.read_table(release.file(ITEMS))["item_id"].to_pylist()
    for user in pq.read_table(release.file(USER_FEATURES)).to_pylist()[::9]:
        items = [*user["user_history"][-3:], *products[:4]]
        scores = served(url, user, items)
        np.testing.assert_allclose(scores, said(release, user, items), rtol=1e-4)
        assert len(set(scores)) > 1


def test_what_was_last_paid_stays_with_its_product_when_a_request_brings_its_own_history(release, url):
    snapshot = pq.read_table(release.file(USER_FEATURES)).to_pylist()
    user = next(row for row in snapshot if len(set(row["user_history_target"][-3:])) == 3)
    items = user["user_history"][-3:]
    scores = served(url, user, items, user_history=items[::-1])
    paid = user["user_history_target"][-3:]
    own = {"user_history": items[::-1], "user_history_age_days": [0.0] * 3, "user_history_count": [1] * 3}
    np.testing.assert_allclose(scores, said(release, user, items, **own, user_history_target=paid[::-1]), rtol=1e-4)
    mixed = said(release, user, items, **own, user_history_target=paid)
    assert not np.allclose(scores, mixed, rtol=1e-4)


def test_it_recommends_by_default(release, url):
    ids = set(np.load(release.file(CANDIDATE_IDS), allow_pickle=False).tolist())
    (found,) = ask(url, instances=[{"user_id": "nobody"}], k=5)
    assert len(found["product_ids"]) == 5
    assert set(found["product_ids"]) <= ids
