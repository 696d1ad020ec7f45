"""What the server recommends equals the release's own graph and a search over every product."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "predict.json"
LATE_US, EARLY_US = 1_700_000_000_000_000, 1_500_000_000_000_000
FULL = {"user_id": "cyd", "city": "Oslo", "age": 40, "visits": 3, "event_time_us": LATE_US}


def merged(release: Path, history: list[str], counts: list[int], ages: list[float], **features: Any) -> dict[str, Any]:
    """Answer of model.onnx, Endcap's code not involved."""
    session = ort.InferenceSession(str(release / "model.onnx"), providers=["CPUExecutionProvider"])
    feeds = {
        "user_id": np.array([features["user_id"]], dtype=object),
        "city": np.array([features["city"]], dtype=object),
        "age": np.array([features["age"]], dtype=np.float32),
        "visits": np.array([[features["visits"]]], dtype=np.int64),
        "event_time_us": np.array([features["event_time_us"]], dtype=np.int64),
        "user_history": np.array([history or [""]], dtype=object),
        "user_history_age_days": np.array([ages or [0.0]], dtype=np.float32),
        "user_history_count": np.array([counts or [0]], dtype=np.int64),
    }
    ids, scores = session.run(["product_ids", "scores"], feeds)
    return {"product_ids": ids[0].tolist(), "scores": scores[0]}


def brute_force(release: Path, instance: dict[str, Any], k: int) -> list[str]:
    """Top k by the query graph and a plain matrix product, for an instance without history."""
    session = ort.InferenceSession(str(release / "query.onnx"), providers=["CPUExecutionProvider"])
    feeds = {
        "user_id": np.array([instance["user_id"]], dtype=object),
        "city": np.array([instance["city"]], dtype=object),
        "age": np.array([instance["age"]], dtype=np.float32),
        "visits": np.array([[instance["visits"]]], dtype=np.int64),
        "event_time_us": np.array([instance["event_time_us"]], dtype=np.int64),
        "user_history": np.array([[""]], dtype=object),
        "user_history_age_days": np.zeros((1, 1), dtype=np.float32),
        "user_history_count": np.zeros((1, 1), dtype=np.int64),
    }
    (vector,) = session.run(["vector"], feeds)
    vectors = np.load(release / "candidates" / "vectors.npy")
    ids = np.load(release / "candidates" / "item_ids.npy")
    found: list[str] = ids[np.argsort(-(vectors @ vector[0]), kind="stable")[:k]].tolist()
    return found


def assert_same(found: Any, expected: Any) -> None:
    assert found["product_ids"] == expected["product_ids"]
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-5, atol=1e-6)


def test_equals_the_merged_graph_and_brute_force(server: Any, release: Path) -> None:
    answer = server.predict({"signature_name": "serving_default", "instances": [FULL]})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    (found,) = answer.body["predictions"]
    assert_same(found, merged(release, [], [], [], **FULL))
    assert found["product_ids"] == brute_force(release, FULL, 20)


def test_rows_and_columns_agree(server: Any) -> None:
    instances = [FULL, {**FULL, "city": "東京"}, {**FULL, "user_id": "nobody", "age": 1.5}]
    rows = server.predict({"instances": instances}).body["predictions"]
    columns = server.predict({"inputs": {name: [row[name] for row in instances] for name in FULL}}).body["outputs"]
    assert columns["product_ids"] == [row["product_ids"] for row in rows]
    assert columns["scores"] == [row["scores"] for row in rows]
    assert len({row["product_ids"][0] for row in rows}) > 1


def test_history_counts_repeats_and_skips_unknown_products(server: Any, release: Path) -> None:
    history = ["p9", "p1", "gone", "p2", "p1", "p1"]
    (found,) = server.predict({"instances": [{**FULL, "user_history": history}]}).body["predictions"]
    assert_same(found, merged(release, ["p9", "p2", "p1"], [1, 1, 3], [0, 0, 0], **FULL))


def test_history_keeps_the_last_distinct_products(server: Any, release: Path) -> None:
    history = [f"p{number}" for number in (1, 2, 3, 4, 5, 6, 2)]
    (found,) = server.predict({"instances": [{**FULL, "user_history": history}]}).body["predictions"]
    assert_same(found, merged(release, ["p3", "p4", "p5", "p6", "p2"], [1, 1, 1, 1, 2], [0.0] * 5, **FULL))


def test_absent_features_come_from_the_snapshot(server: Any, release: Path) -> None:
    # All but the moment of the request, which is this moment and not the snapshot's.
    (found,) = server.predict({"instances": [{"user_id": "ann"}]}).body["predictions"]
    known = {"user_id": "ann", "city": "Köln", "age": 31, "visits": 7, "event_time_us": LATE_US}
    assert_same(found, merged(release, ["p3", "p4"], [90, 4], [2.0, 0.5], **known))
    assert found["product_ids"][0] == "p3"


def test_given_features_and_history_replace_the_snapshot(server: Any, release: Path) -> None:
    instance = {"user_id": "ann", "city": "Oslo", "user_history": []}
    (found,) = server.predict({"instances": [instance]}).body["predictions"]
    known = {"user_id": "ann", "city": "Oslo", "age": 31, "visits": 7, "event_time_us": LATE_US}
    assert_same(found, merged(release, [], [], [], **known))


@pytest.mark.parametrize("user", ["bob", "stranger"])
def test_without_a_value_in_the_snapshot_the_default_holds(server: Any, release: Path, user: str) -> None:
    (found,) = server.predict({"instances": [{"user_id": user, "city": None}]}).body["predictions"]
    visits = 1 if user == "bob" else 2
    now = {"user_id": user, "city": "", "age": np.nan, "visits": visits, "event_time_us": LATE_US}
    assert_same(found, merged(release, [], [], [], **now))
    early = merged(release, [], [], [], **{**now, "event_time_us": EARLY_US})
    assert early["product_ids"] != found["product_ids"]


def test_k_and_exclude_for_all_and_for_one(server: Any, release: Path) -> None:
    best = brute_force(release, FULL, 30)
    body = {
        "instances": [FULL, {**FULL, "k": 2, "exclude": [best[1], "gone"]}],
        "k": 5,
        "exclude": [best[0]],
    }
    first, second = server.predict(body).body["predictions"]
    assert first["product_ids"] == best[1:6]
    assert second["product_ids"] == best[2:4]
    columns = {name: [value, value] for name, value in FULL.items()}
    columns |= {"k": [5, 2], "exclude": [[best[0]], [best[0], best[1]]]}
    outputs = server.predict({"inputs": columns}).body["outputs"]
    assert outputs["product_ids"] == [best[1:6], best[2:4]]


def test_k_may_be_the_whole_catalog(server: Any, release: Path) -> None:
    (found,) = server.predict({"instances": [{**FULL, "k": 3000}]}).body["predictions"]
    assert found["product_ids"] == brute_force(release, FULL, 3000)


def test_many_instances_in_one_request(server: Any, release: Path) -> None:
    instances = [{**FULL, "age": age} for age in range(200)]
    predictions = server.predict({"instances": instances, "k": 3}).body["predictions"]
    assert [found["product_ids"] for found in predictions] == [brute_force(release, row, 3) for row in instances]


def test_version_in_the_path(server: Any) -> None:
    path = "/v1/models/recommender/versions/1:predict"
    assert server.ask("POST", path, {"instances": [FULL]}).body == server.predict({"instances": [FULL]}).body


def assert_alike(found: Any, expected: Any, place: str) -> None:
    """Equal, but for the last digits of numbers with a fraction."""
    assert type(found) is type(expected), place
    if isinstance(expected, dict):
        assert list(found) == list(expected), place
        for key in expected:
            assert_alike(found[key], expected[key], f"{place}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for i, pair in enumerate(zip(found, expected, strict=True)):
            assert_alike(*pair, f"{place}[{i}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5), place
    else:
        assert found == expected, place


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text(encoding="utf-8")), ids=lambda case: case["name"])
def test_golden_payloads(server: Any, case: dict[str, Any]) -> None:
    answer = server.ask(case["method"], case["path"], case.get("request"))
    assert answer.status == case["status"]
    assert_alike(answer.body, case["answer"], "$")
