"""Scores of given pairs equal a formula by hand; what is wrong with a request is said, and fails no other."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from endcap.serving.instances import MAX_PAIRS
from tests.serving.pairs import PRODUCTS, is_close, prediction

GOLDEN = Path(__file__).parents[1] / "golden" / "rank.json"
FULL = {"user_id": "cyd", "city": "Oslo", "age": 40, "visits": 3, "event_time_us": 1_700_000_000_000_000}
ANN = {"user_id": "ann", "city": "Köln", "age": 31, "visits": 7}
IDS = [product["item_id"] for product in PRODUCTS]
TAKES = (
    "serve_ranking takes: user_id (STRING), item_id (a product id, or a list of them); optional: city (STRING), "
    "age (FLOAT), visits (INT64), event_time_us (INT64), user_history (product ids), product.city (STRING), "
    "price (FLOAT), stock (INT64), tags (STRING)."
)

SAY = (
    "Say what it is like by some of these, beside its id: product.city (STRING), price (FLOAT), stock (INT64), "
    "tags (STRING)."
)


def rank(server: Any, *instances: dict[str, Any]) -> list[dict[str, Any]]:
    answer = server.predict({"signature_name": "serve_ranking", "instances": instances})
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.body["predictions"]
    return found


def expected(
    customer: dict[str, Any], products: list[dict[str, Any]], values: dict[str, float] | None = None, **history: float
) -> list[float]:
    return [prediction(customer, history, product, values) for product in products]


def test_several_products_one_product_and_the_order_asked(ranking_server: Any) -> None:
    several, one, snapshot = rank(
        ranking_server,
        {**FULL, "item_id": IDS[::-1]},
        {**FULL, "item_id": "p4"},
        {"user_id": "ann", "item_id": ["p9", "p3", "p4", "p3"]},
    )
    assert several["product_ids"] == IDS[::-1]
    assert is_close(several["scores"], expected(FULL, PRODUCTS[::-1]))
    assert one["product_ids"] == ["p4"]
    assert is_close(one["scores"], expected(FULL, [PRODUCTS[4]]))
    of_ann = [PRODUCTS[9], PRODUCTS[3], PRODUCTS[4], PRODUCTS[3]]
    assert is_close(snapshot["scores"], expected(ANN, of_ann, {"p3": 12.5}, p3=90, p4=4))


def test_rows_and_columns_agree(ranking_server: Any) -> None:
    instances = [{**FULL, "item_id": ["p1", "p2"]}, {**FULL, "age": 1.5, "item_id": ["p3"]}]
    rows = rank(ranking_server, *instances)
    columns = {name: [row[name] for row in instances] for name in instances[0]}
    answer = ranking_server.predict({"inputs": columns, "signature_name": "serve_ranking"})
    assert answer.body == {
        "outputs": {"product_ids": [row["product_ids"] for row in rows], "scores": [row["scores"] for row in rows]}
    }


def test_a_release_that_only_scores_pairs_does_so_by_default(ranking_server: Any) -> None:
    body = {"instances": [{**FULL, "item_id": IDS}]}
    by_default = ranking_server.predict(body)
    assert by_default.body == ranking_server.predict({**body, "signature_name": "serve_ranking"}).body
    assert is_close(by_default.body["predictions"][0]["scores"], expected(FULL, PRODUCTS))


def test_history_of_the_request_without_what_nobody_sells(ranking_server: Any) -> None:
    asked = {"user_id": "ann", "user_history": ["p1", "gone", "p2", "p1", "p3"], "item_id": ["p1", "p2", "p3", "p4"]}
    (found,) = rank(ranking_server, asked)
    # What was last paid is the snapshot's, for those products that the request has too.
    assert is_close(found["scores"], expected(ANN, PRODUCTS[1:5], {"p3": 12.5}, p1=2, p2=1, p3=1))


def test_features_of_products_in_the_request_stand_instead_of_the_release_s(ranking_server: Any) -> None:
    one, several = rank(
        ranking_server,
        {**FULL, "item_id": "p1", "price": 2, "product.city": "Oslo", "tags": ["a", "b"]},
        {**FULL, "item_id": ["p1", "p2", "p3"], "price": [None, 7.5, None], "tags": [["x"] * 5, None, []]},
    )
    assert is_close(one["scores"], expected(FULL, [PRODUCTS[1] | {"price": 2, "city": "Oslo", "tags": ["a", "b"]}]))
    changed = [PRODUCTS[1] | {"tags": "xxxxx"}, PRODUCTS[2] | {"price": 7.5}, PRODUCTS[3] | {"tags": []}]
    assert is_close(several["scores"], expected(FULL, changed))


def test_a_product_that_the_release_does_not_have_is_scored_by_its_features(ranking_server: Any) -> None:
    one, several = rank(
        ranking_server,
        {**FULL, "item_id": "unheard of", "price": 2.5},
        {**FULL, "item_id": ["p1", "unheard of"], "stock": [None, 16], "product.city": [None, "Oslo"]},
    )
    assert is_close(one["scores"], expected(FULL, [{"item_id": "unheard of", "price": 2.5}]))
    unheard = {"item_id": "unheard of", "stock": 16, "city": "Oslo"}
    assert is_close(several["scores"], expected(FULL, [PRODUCTS[1], unheard]))


def one(**changes: Any) -> dict[str, Any]:
    return {"signature_name": "serve_ranking", "instances": [{**FULL, "item_id": ["p1", "p2"], **changes}]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            one(item_id="p77"),
            f"instances[0].item_id: the release has no product 'p77'. {SAY}",
        ),
        (one(item_id=["p1", "p77"]), "instances[0].item_id[1]: the release has no product 'p77'"),
        (one(item_id=["p77", "p1"], price=[None, 2]), "instances[0].item_id[0]: the release has no product 'p77'"),
        (one(item_id=None), f"instances[0]: missing feature item_id. {TAKES}"),
        (one(item_id=[]), "instances[0].item_id: expected a product id or several; found an empty list"),
        (one(item_id=5), "instances[0].item_id: expected a product id, a string; found an integer"),
        (one(item_id=["p1", 5]), "instances[0].item_id[1]: expected a product id, a string; found an integer"),
        (one(item_id=[["p1"]]), "instances[0].item_id[0]: expected a product id, a string; found a list"),
        (one(user_id=None), f"instances[0]: missing feature user_id. {TAKES}"),
        (one(prize=[1, 2]), f"instances[0]: unknown feature 'prize'. Did you mean price? {TAKES}"),
        (one(k=3), "instances[0]: unknown feature 'k'."),
        ({**one(), "k": 3}, "k: serve_ranking scores every product that is given. Leave k out."),
        ({**one(), "exclude": ["p1"]}, "exclude: serve_ranking scores every product that is given. Leave exclude out."),
        (
            one(price=[1, 2, 3]),
            "instances[0].price: expected a list of 2 values, one for each product of item_id; found 3.",
        ),
        (
            one(price=1),
            "instances[0].price: expected a list of 2 values, one for each product of item_id; found an integer",
        ),
        (one(price=[1, "2"]), "instances[0].price[1]: expected a number (FLOAT); found a string"),
        (one(item_id="p1", price=[1]), "instances[0].price: expected a number (FLOAT); found a list"),
        (one(tags=["a", "b"]), "instances[0].tags[0]: expected a list of STRING; found a string"),
        (one(tags=[["a", 1], None]), "instances[0].tags[0][1]: expected a string (STRING); found an integer"),
        (
            one(user_history=["p1", 2]),
            "instances[0].user_history[1]: expected a product id, a string; found an integer",
        ),
        (
            {"signature_name": "serve_ranking", "instances": [{**FULL, "item_id": IDS * 101}] * 10},
            f"Expected at most {MAX_PAIRS:,} pairs of a customer and a product in one request; found 10,100.",
        ),
        ({"signature_name": "rank", "instances": [FULL]}, "This release has: serve_ranking, serving_default."),
    ],
)
def test_bad_request_is_400(ranking_server: Any, body: Any, message: str) -> None:
    answer = ranking_server.predict(body)
    assert (answer.status, message in answer.error) == (400, True), answer.error


def test_as_many_pairs_as_a_request_may_have_are_scored_as_each_alone(ranking_server: Any) -> None:
    customers = [{**FULL, "age": age, "user_history": IDS[: age % 6]} for age in range(10)]
    found = rank(ranking_server, *({**customer, "item_id": IDS * 100} for customer in customers))
    for customer, row in zip(customers, found, strict=True):
        history = dict.fromkeys(customer["user_history"], 1.0)
        assert is_close(row["scores"], expected(customer, PRODUCTS, **history) * 100)


def test_a_request_that_can_not_be_computed_fails_alone(ranking_server: Any) -> None:
    bodies = [one(item_id=["p1"], age=age) for age in range(30)]
    bodies[10] = one(item_id=["p1", "p2"], price=[1, 3e38])  # ten times that is infinite
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(ranking_server.predict, bodies))
    assert [answer.status for answer in answers] == [200] * 10 + [400] + [200] * 19
    assert "no finite score for numbers as large as these" in answers[10].error
    for age, answer in enumerate(answers):
        if age != 10:
            assert is_close(answer.body["predictions"][0]["scores"], expected({**FULL, "age": age}, [PRODUCTS[1]]))


def test_a_multitask_release_answers_both_and_recommends_by_default(
    multitask_server: Any, server: Any, ranking_server: Any
) -> None:
    body = {"instances": [FULL], "k": 5}
    recommended = server.predict(body).body
    assert multitask_server.predict(body).body == recommended
    assert multitask_server.predict({**body, "signature_name": "serving_default"}).body == recommended
    asked = {**FULL, "item_id": IDS}
    assert rank(multitask_server, asked) == rank(ranking_server, asked)
    with ThreadPoolExecutor(8) as pool:  # both kinds in one batch
        answers = list(pool.map(multitask_server.predict, [body, one()] * 20))
    assert {answer.status for answer in answers} == {200}
    assert all(answer.body == recommended for answer in answers[::2])
    assert all(
        is_close(answer.body["predictions"][0]["scores"], expected(FULL, PRODUCTS[1:3])) for answer in answers[1::2]
    )


def test_without_ranking_the_signature_is_unknown(server: Any) -> None:
    assert server.predict(one()).error == "Unknown signature 'serve_ranking'. This release has: serving_default."


def test_metadata_shows_both_signatures(multitask_server: Any) -> None:
    described = multitask_server.ask("GET", "/v1/models/recommender/metadata").body
    signatures = described["metadata"]["signature_def"]["signature_def"]
    shapes = {
        name: {
            end: {
                tensor: [int(dim["size"]) for dim in entry["tensor_shape"]["dim"]]
                for tensor, entry in signature[end].items()
            }
            for end in ("inputs", "outputs")
        }
        for name, signature in signatures.items()
    }
    customer = {
        "user_id": [-1],
        "city": [-1],
        "age": [-1],
        "visits": [-1, 1],
        "event_time_us": [-1],
        "user_history": [-1, -1],
    }
    products = {name: [-1, -1] for name in ("item_id", "product.city", "price", "stock")} | {"tags": [-1, -1, -1]}
    assert shapes["serving_default"] == {"inputs": customer, "outputs": {"product_ids": [-1, 20], "scores": [-1, 20]}}
    assert shapes["serve_ranking"] == {
        "inputs": customer | products, "outputs": {"product_ids": [-1, -1], "scores": [-1, -1]}
    }  # fmt: skip
    assert signatures["serve_ranking"]["inputs"]["item_id"]["dtype"] == "DT_STRING"


def test_scoring_is_counted_as_a_stage(ranking_server: Any) -> None:
    rank(ranking_server, {**FULL, "item_id": IDS})
    text = ranking_server.ask("GET", "/monitoring/prometheus/metrics").body.decode()
    (count,) = [
        line for line in text.splitlines() if line.startswith('endcap_stage_duration_seconds_count{stage="ranking",')
    ]
    assert float(count.split()[-1]) >= 1


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text(encoding="utf-8")), ids=lambda case: case["name"])
def test_golden_payloads(ranking_server: Any, case: dict[str, Any]) -> None:
    answer = ranking_server.ask("POST", "/v1/models/recommender:predict", case["request"])
    assert (answer.status, answer.body) == (case["status"], case["answer"])
