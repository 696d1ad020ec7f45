"""Answers within a category, a range of prices, what is in stock, or given products; and what is no filter."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import ArtifactError
from endcap.contracts.release import ITEMS
from endcap.releases.bundle import open_release
from endcap.serving.errors import RequestError
from endcap.serving.filtered import ProductFilters
from endcap.serving.filters import MAX_CATEGORIES, Filter, check_filter
from endcap.serving.predictor import Predictor
from tests.serving.conftest import NUM_ITEMS, RETRIEVAL_SIGNATURE, seal, write_retrieval

CATEGORIES = ("Home", "Home > Lamps", "Home > Lamps > Red", "Homework", None)
FULL = {"user_id": "cyd", "city": "Oslo", "age": 40, "visits": 3, "event_time_us": 1_700_000_000_000_000}


def product(number):
    return {
        "item_id": f"p{number}",
        "category": CATEGORIES[number % 5],
        "price": None if number % 7 == 0 else number / 10,
        "in_stock": (True, False, None)[number % 3],
        "color": "red",
    }


def write_filtered(folder, numbers=range(NUM_ITEMS)):
    """The small release with its products' columns, in another order than the candidates'."""
    retrieval = write_retrieval(folder)
    pq.write_table(pa.Table.from_pylist([product(number) for number in reversed(numbers)]), folder / ITEMS)
    seal(folder, retrieval, {"serving_default": RETRIEVAL_SIGNATURE})
    return folder


@pytest.fixture(scope="module")
def filtered_release(tmp_path_factory):
    return write_filtered(tmp_path_factory.mktemp("filtered") / "1")


@pytest.fixture(scope="module")
def predictor(filtered_release):
    return Predictor(open_release(filtered_release))


def recommended(predictor, **asked):
    queries = predictor.decoder.decode(json.dumps(asked).encode()).queries
    found = predictor.retriever.recommend(queries, lambda *_: None)
    return [predictor.retriever.item_ids[one.rows].tolist() for one in found]


def ranked(predictor):
    """All products, best first."""
    return recommended(predictor, instances=[FULL], k=NUM_ITEMS)[0]


def fits(number, asked):
    of = product(number)
    wanted = asked.get("category")
    if wanted is not None:
        names = [wanted] if isinstance(wanted, str) else wanted
        path = of["category"] or ""
        if not any(path == name or path.startswith(f"{name} > ") for name in names):
            return False
    low, high = asked.get("price", {}).get("min"), asked.get("price", {}).get("max")
    if (low is not None or high is not None) and of["price"] is None:
        return False
    if (low is not None and of["price"] < low) or (high is not None and of["price"] > high):
        return False
    return asked.get("in_stock") is None or of["in_stock"] is asked["in_stock"]


@pytest.mark.parametrize(
    "asked",
    [
        {"category": "Home"},
        {"category": ["Home > Lamps", "Homework"]},
        {"category": "Home > Lamps > Red", "price": {"max": 3.1}},
        {"price": {"min": 10, "max": 250}},
        {"price": {"min": 299.8}, "in_stock": None},
        {"in_stock": True},
        {"in_stock": False, "category": "Homework"},
        {"category": "Garden"},
        {},
    ],
)
def test_the_best_of_those_that_fit(predictor, asked):
    expected = [item for item in ranked(predictor) if fits(int(item[1:]), asked)]
    assert recommended(predictor, instances=[{**FULL, "filter": asked}], k=50) == [expected[:50]]
    assert recommended(predictor, instances=[FULL], filter=asked, k=NUM_ITEMS) == [expected]


def test_with_given_products_and_exclusions(predictor):
    best = ranked(predictor)
    lamps = [item for item in best if fits(int(item[1:]), {"category": "Home > Lamps"})]
    assert recommended(predictor, instances=[FULL], only=[best[70], "gone", best[5], best[5]]) == [[best[5], best[70]]]
    assert recommended(predictor, instances=[FULL], only=["gone"]) == [[]]
    assert recommended(predictor, instances=[FULL], only=[]) == [[]]
    asked = {"only": best[:200], "filter": {"category": "Home > Lamps"}, "exclude": lamps[:1]}
    assert recommended(predictor, instances=[FULL], **asked) == [
        [item for item in lamps[1:] if item in best[:200]][:20]
    ]


def test_what_an_instance_says_counts_instead(predictor):
    best = ranked(predictor)
    own = {**FULL, "only": best[3:4], "filter": {}}
    found = recommended(predictor, instances=[FULL, own], only=best[:2], filter={"price": {"min": 1e9}})
    assert found == [[], [best[3]]]


def test_a_history_lifts_nothing_that_does_not_fit(predictor):
    bought = {**FULL, "user_history": ["p3"] * 40 + ["p8"] * 30, "user_id": "x"}
    assert recommended(predictor, instances=[{**bought, "filter": {"category": "Homework"}}], k=2) == [["p3", "p8"]]
    assert not {"p3", "p8"} & set(recommended(predictor, instances=[{**bought, "filter": {"category": "Home"}}])[0])


def test_a_product_of_which_the_file_says_nothing_fits_no_filter(tmp_path):
    predictor = Predictor(open_release(write_filtered(tmp_path / "1", range(0, NUM_ITEMS, 2))))
    found = recommended(predictor, instances=[FULL], filter={"price": {"min": -1}}, k=NUM_ITEMS)[0]
    assert sorted(int(item[1:]) for item in found) == [n for n in range(0, NUM_ITEMS, 2) if n % 7]
    assert len(recommended(predictor, instances=[FULL], filter={}, k=NUM_ITEMS)[0]) == NUM_ITEMS


def test_over_http_in_rows_and_columns(filtered_release, start_server):
    server = start_server(filtered_release)
    asked = {"category": "Home > Lamps", "in_stock": True}
    (row,) = server.predict({"instances": [{**FULL, "filter": asked}], "k": 5}).body["predictions"]
    assert len(row["product_ids"]) == len(row["scores"]) == 5
    assert all(fits(int(item[1:]), asked) for item in row["product_ids"])
    columns = {name: [value] for name, value in FULL.items()} | {"filter": [asked]}
    assert server.predict({"inputs": columns, "k": 5}).body["outputs"]["product_ids"] == [row["product_ids"]]
    refused = server.predict({"instances": [FULL], "filter": {"brand": "x"}})
    assert (refused.status, "A filter takes: category, price, in_stock." in refused.error) == (400, True)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("Home", "filter: expected an object; found a string. A filter takes: category, price, in_stock."),
        ({"color": "red"}, "filter: no filter by 'color' here. A filter takes: category, price, in_stock."),
        ({"category": []}, "filter.category: expected a category's name, or a list of names; found an empty list."),
        ({"category": ["a", 1]}, "expected a category's name, or a list of names; found a list with something else."),
        ({"category": {}}, "found an object."),
        ({"category": ["a"] * (MAX_CATEGORIES + 1)}, "expected at most 1,000 categories; found 1,001."),
        ({"price": 3}, "filter.price: expected an object with min, max or both; found an integer."),
        (
            {"price": {"from": 3}},
            "filter.price: expected an object with min, max or both; found an object with other keys.",
        ),
        ({"price": {"min": "3"}}, "filter.price.min: expected a number (FLOAT); found a string."),
        ({"price": {"min": 3, "max": 2}}, "filter.price: expected min to be no more than max; found 3 and 2."),
        ({"in_stock": 1}, "filter.in_stock: expected true or false; found an integer."),
    ],
)
def test_what_is_no_filter(asked, said):
    with pytest.raises(RequestError) as refused:
        check_filter(asked, "filter", ("category", "price", "in_stock"))
    assert refused.value.status == 400
    assert said in refused.value.message


def test_a_release_that_knows_nothing_of_its_products_says_so():
    with pytest.raises(
        RequestError, match=r"no filter by 'price' here. A filter takes: nothing: the release knows neither"
    ):
        check_filter({"price": {"min": 1}}, "filter", ())


def test_filters_asked_lately_are_kept_within_bounds(filtered_release, monkeypatch):
    filters = ProductFilters.open(filtered_release / ITEMS, np.array([f"p{number}" for number in range(NUM_ITEMS)]))
    first, second = Filter(categories=("Home",)), Filter(in_stock=True)
    found = filters.selection(first)
    assert filters.selection(first) is found
    monkeypatch.setattr("endcap.serving.filtered._MAX_BYTES", found.num_bytes)
    filters.selection(second)
    assert filters.selection(first) is not found
    np.testing.assert_array_equal(filters.selection(first).rows, found.rows)


def test_a_file_without_ids_is_refused(tmp_path):
    pq.write_table(pa.table({"price": [1.0]}), tmp_path / ITEMS)
    with pytest.raises(ArtifactError, match="can't be read as the products' columns"):
        ProductFilters.open(tmp_path / ITEMS, np.array(["p1"]))


def test_several_threads_filter_as_one_does(predictor):
    def ask(number):
        asked = {"k": 10, "exclude": [f"p{number}"]} | ({"filter": {"price": {"max": number}}} if number % 3 else {})
        return recommended(predictor, instances=[{**FULL, "age": number}] * (1 + number % 4), **asked)

    expected = [ask(number) for number in range(24)]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            assert list(pool.map(ask, range(24))) == expected
