"""One release, four ways to ask it: the parts put together here, the merged graph, the evaluation's scorer, a live server."""

import shutil

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.release import CANDIDATE_IDS, CANDIDATE_VECTORS, MERGED_GRAPH, QUERY_GRAPH, USER_FEATURES
from endcap.contracts.reporting import Silent
from endcap.features.point_in_time import STRANGER
from endcap.flows.scoring import ExportedModel, feed
from endcap.flows.train_run import train_run
from endcap.workspace.layout import Workspace
from tests.flows.live_server import ask, serving

MOMENT_US = 1_302_000_000_000_000
K = 20


@pytest.fixture(scope="module")
def release(trained_shop, tmp_path_factory):
    """A release whose scores have every part: vectors, the history's products, and their neighbors."""
    folder = tmp_path_factory.mktemp("served") / "shop"
    shutil.copytree(trained_shop.workspace.path, folder)
    configuration = trained_shop.configuration
    model = configuration.model.model_copy(update={"neighbors": 4, "neighbor_scale": 2.0})
    return train_run(Workspace.open(folder), configuration.model_copy(update={"model": model}), Silent()).release


@pytest.fixture(scope="module")
def url(release):
    with serving(release.path) as address:
        yield address


# What training asks as when it hides a customer is what an unknown one is to the server.
NOBODY = {"country": None, **STRANGER, "user_history": [], "user_history_age_days": [], "user_history_count": []}


def with_history(row, items):
    """What the server makes of a `user_history` in the request: distinct products, bought just now."""
    distinct = list(dict.fromkeys(reversed(items)))[::-1]
    return row | {
        "user_history": distinct,
        "user_history_age_days": [0.0] * len(distinct),
        "user_history_count": [items.count(item) for item in distinct],
    }


@pytest.fixture(scope="module")
def questions(release):
    """Requests, and the raw row that each stands for."""
    users = {row["user_id"]: row for row in pq.read_table(release.file(USER_FEATURES)).to_pylist()}
    ids = np.load(release.file(CANDIDATE_IDS), allow_pickle=False).tolist()
    known = sorted(users)[::7]
    asked = [({"user_id": user}, users[user]) for user in known]
    asked += [({"user_id": user}, NOBODY) for user in ("nobody", "Zoë", "")]
    twice = [ids[3], ids[9], ids[3]]
    asked += [
        ({"user_id": "nobody", "user_history": twice}, with_history(NOBODY, twice)),
        ({"user_id": known[0], "user_history": [ids[5]]}, with_history(users[known[0]], [ids[5]])),
        ({"user_id": known[1], "user_history": ["no such product", ids[1]]}, with_history(users[known[1]], [ids[1]])),
        ({"user_id": known[2], "country": "Norway", "num_baskets": 3}, users[known[2]] | {"country": "Norway", "num_baskets": 3}),
    ]  # fmt: skip
    requests = [request | {"event_time_us": MOMENT_US} for request, _ in asked]
    rows = [row | {"user_id": request["user_id"], "event_time_us": MOMENT_US} for request, row in asked]
    return requests, rows


def table_of(release, rows):
    """The raw rows as the graphs take them: a missing number, moment or text by its stand-in."""
    types = {"STRING": pa.string(), "INT64": pa.int64(), "FLOAT": pa.float64()}
    columns = {}
    for tensor in release.manifest.signatures["serving_default"].inputs:
        kind = types[tensor.dtype]
        values = [row[tensor.name] for row in rows]
        columns[tensor.name] = pa.array(values, pa.list_(kind) if len(tensor.shape) == 2 else kind)
    return pa.table(columns)


def by_hand(release, table):
    """Query graph, inner products, boosts, and a full sort."""
    retrieval = release.manifest.retrieval
    inputs = release.manifest.signatures["serving_default"].inputs
    session = ort.InferenceSession(str(release.file(QUERY_GRAPH)), providers=["CPUExecutionProvider"])
    feeds = {tensor.name: feed(tensor, table) for tensor in inputs}
    vectors, boosts, rows, more = session.run([retrieval.vector_output, *retrieval.history.outputs], feeds)
    assert (rows >= 0).any()
    ids = np.load(release.file(CANDIDATE_IDS), allow_pickle=False)
    scores = vectors @ np.load(release.file(CANDIDATE_VECTORS), allow_pickle=False).T
    place = {item: number for number, item in enumerate(ids.tolist())}
    for row, items in enumerate(table["user_history"].to_pylist()):
        for column, item in enumerate(items):
            if item in place:
                scores[row, place[item]] += boosts[row, column]
        for neighbor, boost in zip(rows[row], more[row], strict=True):
            if neighbor >= 0:
                scores[row, neighbor] += boost
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return ids[order].tolist(), np.take_along_axis(scores, order, axis=1)


def agree(ids, scores, expected_ids, expected_scores):
    """The same products in the same order; where two scores are as good as equal, their order is free."""
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-4)
    for row, (mine, theirs) in enumerate(zip(ids, expected_ids, strict=True)):
        unlike = [place for place in range(K) if mine[place] != theirs[place]]
        gaps = np.abs(np.diff(expected_scores[row], append=expected_scores[row][-1]))
        assert all(min(gaps[place], gaps[place - 1]) < 1e-4 for place in unlike), (row, mine, theirs)


def test_the_merged_graph_answers_as_the_parts_do(release, questions):
    table = table_of(release, questions[1])
    inputs = release.manifest.signatures["serving_default"].inputs
    session = ort.InferenceSession(str(release.file(MERGED_GRAPH)), providers=["CPUExecutionProvider"])
    assert {node.name for node in session.get_inputs()} == {tensor.name for tensor in inputs}
    ids, scores = session.run(["product_ids", "scores"], {tensor.name: feed(tensor, table) for tensor in inputs})
    agree(ids.tolist(), scores, *by_hand(release, table))


def test_the_server_answers_as_the_parts_do(release, url, questions):
    requests, rows = questions
    said = ask(url, instances=requests)
    expected_ids, expected_scores = by_hand(release, table_of(release, rows))
    agree(
        [one["product_ids"] for one in said], np.array([one["scores"] for one in said]), expected_ids, expected_scores
    )
    for request, together in zip(requests, said, strict=True):
        (alone,) = ask(url, instances=[request])
        assert alone["product_ids"] == together["product_ids"]


def test_what_is_evaluated_is_what_is_served(release, url, questions):
    requests, rows = questions
    ids = np.load(release.file(CANDIDATE_IDS), allow_pickle=False).tolist()
    table = table_of(release, rows)
    earlier = [row["user_history"] for row in rows]
    model = ExportedModel(
        release.path, release.manifest.retrieval, release.manifest.signatures["serving_default"].inputs
    )
    ranked = model.rank(
        "model", "the model", table.append_column("earlier", pa.array(earlier, pa.list_(pa.string()))),
        np.arange(len(ids)), K,
    )  # fmt: skip
    every = ask(url, instances=requests)
    assert [one["product_ids"] for one in every] == [[ids[n] for n in row] for row in ranked.all_purchases]
    new = [
        ask(url, instances=[request], exclude=row["user_history"])[0]
        for request, row in zip(requests, rows, strict=True)
    ]
    assert [one["product_ids"] for one in new] == [[ids[n] for n in row] for row in ranked.new_to_customer]
    for one, row in zip(new, rows, strict=True):
        assert not set(one["product_ids"]) & set(row["user_history"])


def test_history_changes_the_answer_and_customers_differ(release, url, questions):
    said = ask(url, instances=questions[0])
    assert len({tuple(one["product_ids"]) for one in said}) > 3
    assert said[-4]["scores"] != ask(url, instances=[{"user_id": "nobody", "event_time_us": MOMENT_US}])[0]["scores"]
