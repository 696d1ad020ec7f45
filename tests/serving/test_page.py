"""The page at `/`: who may see it, what it may do, what its routes answer, and that a person can use it in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from endcap.contracts.release import ITEMS
from endcap.releases.bundle import open_release
from endcap.serving.errors import RequestError
from endcap.serving.page import read_catalog
from endcap.serving.predictor import Predictor
from endcap.serving.token_file import hash_of
from tests.serving.browser import Browser
from tests.serving.conftest import write_ranking_release

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
TITLES = [HOSTILE, *(f"Lamp {number} of brass" for number in range(1, 9)), None]
MODEL = "/v1/models/recommender"
MARKED = {"x-endcap-page": "1"}


def write_shop(folder: Path) -> Path:
    """A release that recommends and scores; of its 3,000 products the first ten have names, categories and prices."""
    write_ranking_release(folder, recommends=True)
    items = pq.read_table(folder / ITEMS)
    items = (
        items.drop_columns("title")
        .append_column("title", [TITLES])
        .append_column("category", [["Home > Lamps" if number % 2 else "Garden" for number in range(10)]])
    )
    pq.write_table(items, folder / ITEMS)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][ITEMS] = {
        "sha256": hashlib.sha256((folder / ITEMS).read_bytes()).hexdigest(),
        "num_bytes": (folder / ITEMS).stat().st_size,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("releases") / "shop")


@pytest.fixture(scope="module")
def served(shop: Path, start_server: Any) -> Any:
    return start_server(shop)


@pytest.fixture(scope="module")
def guarded(shop: Path, tmp_path_factory: pytest.TempPathFactory, start_server: Any) -> Any:
    """With a token that may do all, `all`, one that may only read, `reader`, and one of another model, `other`."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.json"
    entries = [
        {"name": "all", "sha256": hash_of("all").hex(), "scopes": ["predict", "read"]},
        {"name": "reader", "sha256": hash_of("reader").hex(), "scopes": ["read"]},
        {"name": "predictor", "sha256": hash_of("predictor").hex(), "scopes": ["predict"]},
        {"name": "other", "sha256": hash_of("other").hex(), "scopes": ["predict", "read"], "models": ["shoes"]},
    ]
    file.write_text(json.dumps({"tokens": entries}))
    file.chmod(0o600)
    return start_server(shop, auth="token", tokens_file=file)


def as_password(token: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"somebody:{token}".encode()).decode()}


def test_it_is_whole_in_itself_and_may_run_nothing_else(served: Any) -> None:
    answer = served.ask("GET", "/")
    html = answer.body.decode()
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(f"<{tag}[^>]*>(.*?)</{tag}>", html, re.DOTALL)
        assert policy[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert (policy["default-src"], policy["connect-src"], policy["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert policy["require-trusted-types-for"] == "'script'"
    # What is named elsewhere is a picture that is there itself.
    assert re.findall(r"(?:src|href|action)=\"(?!#|data:)", html) == []
    assert "style=" not in html
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|localStorage|sessionStorage", html)
    headers = ("cache-control", "x-content-type-options", "referrer-policy", "x-frame-options")
    assert [answer.headers[name] for name in headers] == ["no-store", "nosniff", "no-referrer", "DENY"]


def test_models_and_what_a_release_takes_are_listed(served: Any) -> None:
    listed = served.ask("GET", "/v1/models")
    model = {"name": "recommender", "version": "1", "versions": ["1"], "labels": {}}
    assert listed.body == {"models": [model], "asks_for_token": False}
    assert listed.headers["cache-control"] == "no-store"
    catalog = served.ask("GET", f"{MODEL}/versions/1/catalog").body
    assert (catalog["num_products"], catalog["columns"]) == (3000, ["title", "category", "price"])
    assert catalog["customer"] == {"name": "user_id", "dtype": "STRING"}
    assert catalog["history"] == {"max_length": 5}
    assert (catalog["recommends"], catalog["ranking"]["item"]) == (True, "item_id")
    assert {one["name"] for one in catalog["features"]} == {"city", "age", "visits", "event_time_us"}


def test_products_are_searched_and_named(served: Any) -> None:
    found = served.ask("GET", f"{MODEL}/products?q=BRASS%20lamp&limit=2").body
    assert found["num_found"] == 8
    assert found["products"][0] == {"id": "p1", "title": "Lamp 1 of brass", "category": "Home > Lamps", "price": 1.5}
    assert len(served.ask("GET", f"{MODEL}/products").body["products"]) == 20
    named = served.ask("POST", f"{MODEL}/products", {"ids": ["p0", "none such", "p11"]}).body
    assert [(one["id"], one["title"]) for one in named["products"]] == [("p0", HOSTILE), ("p11", None)]


def test_its_routes_are_counted_apart_from_predictions(served: Any) -> None:
    def counts() -> dict[str, float]:
        text = served.ask("GET", "/monitoring/prometheus/metrics").body.decode()
        return dict(re.findall(r'endcap_requests_total\{code="200",route="(\w+)"\} ([\d.]+)', text)) or dict(
            re.findall(r'endcap_requests_total\{route="(\w+)",code="200"\} ([\d.]+)', text)
        )

    before = counts()
    for path in ("/", "/v1/models", f"{MODEL}/catalog", f"{MODEL}/products"):
        served.ask("GET", path)
    after = counts()
    grown = {route for route in after if float(after[route]) > float(before.get(route, 0))}
    assert grown - {"metrics"} == {"page", "models", "catalog", "products"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", f"{MODEL}/products?limit=0", None, 400, "limit: expected a whole number from 1 to 100."),
        ("GET", f"{MODEL}/products?limit=ten", None, 400, "limit: expected a whole number from 1 to 100."),
        ("GET", f"{MODEL}/products?q={'x' * 201}", None, 400, "q: expected at most 200 characters; found 201."),
        ("GET", f"{MODEL}/products?page=2", None, 400, "It takes q and limit."),
        ("GET", f"{MODEL}/products?q=a&q=b", None, 400, "names a key twice"),
        ("GET", f"{MODEL}/products?q=%ff", None, 400, "in UTF-8"),
        ("POST", f"{MODEL}/products", {"ids": [5]}, 400, "ids[0]: expected a product id, a string; found an integer."),
        ("POST", f"{MODEL}/products", {"ids": ["x"] * 1001}, 400, "at most 1,000 product ids; found 1,001"),
        ("POST", f"{MODEL}/products", b"[", 400, "Expected an object with a list of product ids"),
        ("POST", f"{MODEL}/products", {"id": []}, 400, "Expected an object with a list of product ids"),
        ("PUT", f"{MODEL}/products", None, 405, "This route takes GET, HEAD, POST."),
        ("POST", f"{MODEL}/catalog", None, 405, "This route takes GET, HEAD."),
        ("POST", "/", None, 405, "This route takes GET, HEAD."),
        ("POST", "/v1/models", None, 405, "This route takes GET, HEAD."),
        ("GET", "/v1/models/shoes/catalog", None, 404, "no model 'shoes'"),
        ("GET", f"{MODEL}/versions/7/products", None, 404, "no version 7"),
        ("GET", f"{MODEL}/labels/best/products", None, 404, "no label 'best'"),
    ],
)
def test_what_is_wrong_is_said(served: Any, method: str, path: str, body: Any, status: int, message: str) -> None:
    answer = served.ask(method, path, body)
    assert answer.status == status
    assert message in answer.error


def test_a_request_is_timed_when_it_asks_for_that(served: Any) -> None:
    def ask(*instances: dict[str, Any], **more: Any) -> dict[str, str]:
        answer = served.predict({"instances": list(instances), **more}, {"x-endcap-timing": "1"})
        assert answer.status == 200
        headers: dict[str, str] = answer.headers
        return headers

    known = ask({"user_id": "ann"})
    stages = dict(part.split(";dur=") for part in known["server-timing"].split(", "))
    assert list(stages)[:2] == ["decode", "queue"]
    assert list(stages)[-2:] == ["serialize", "total"]
    assert "search" in stages
    assert sum(float(ms) for name, ms in stages.items() if name != "total") <= float(stages["total"]) + 0.01
    assert (known["x-endcap-customer"], known["cache-control"]) == ("known", "no-store")
    assert ask({"user_id": "nobody"})["x-endcap-customer"] == "unknown"
    assert "x-endcap-customer" not in ask({"user_id": "ann"}, {"user_id": "bob"})
    pairs = ask({"user_id": "ann", "item_id": ["p1"]}, signature_name="serve_ranking")
    assert "ranking;dur=" in pairs["server-timing"]
    plain = served.predict({"instances": [{"user_id": "ann"}]}).headers
    assert not {"server-timing", "x-endcap-customer", "cache-control"} & set(plain)


def test_a_timed_request_is_answered_as_any_other(served: Any) -> None:
    body = {"instances": [{"user_id": "ann", "user_history": ["p1"]}], "k": 30}
    timed = served.predict(body, {"x-endcap-timing": "1"}).body["predictions"][0]
    plain = served.predict(body).body["predictions"][0]
    assert timed["product_ids"] == plain["product_ids"]
    assert timed["scores"] == pytest.approx(plain["scores"], abs=1e-5)


def test_s8_a_browser_is_asked_for_a_token_and_gives_it_as_a_password(guarded: Any) -> None:
    asked = guarded.ask("GET", "/")
    assert asked.status == 401
    assert asked.headers["www-authenticate"] in ("Bearer", 'Basic realm="Endcap", charset="UTF-8"')
    assert guarded.ask("GET", "/", headers=as_password("all")).status == 200
    assert guarded.ask("GET", "/", headers={"authorization": "Bearer all"}).status == 200
    # A browser would keep a wrong password if it weren't told that it is wrong.
    wrong = guarded.ask("GET", "/", headers=as_password("wrong"))
    assert (wrong.status, "none of this server's" in wrong.error) == (401, True)
    assert guarded.ask("GET", "/", headers=as_password("predictor")).status == 401
    assert guarded.ask("GET", "/", headers={"authorization": "Bearer wrong"}).status == 403
    for broken in ("Basic", "Basic ***", "Basic " + base64.b64encode(b"no colon").decode()):
        assert guarded.ask("GET", "/", headers={"authorization": broken}).status == 401


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models", None),
        ("GET", f"{MODEL}/catalog", None),
        ("GET", f"{MODEL}/products?q=lamp", None),
        ("POST", f"{MODEL}/products", {"ids": ["p1"]}),
        ("POST", f"{MODEL}:predict", {"instances": [{"user_id": "ann"}], "k": 1}),
    ],
)
def test_s8_a_password_counts_for_the_page_alone(guarded: Any, method: str, path: str, body: Any) -> None:
    assert guarded.ask(method, path, body).status == 401
    # Browsers send passwords along with what other pages ask, but without the page's mark.
    unmarked = guarded.ask(method, path, body, as_password("all"))
    assert (unmarked.status, unmarked.headers["www-authenticate"]) == (401, "Bearer")
    assert guarded.ask(method, path, body, MARKED | as_password("all")).status == 200
    assert guarded.ask(method, path, body, MARKED | as_password("wrong")).status == 403
    reader = guarded.ask(method, path, body, MARKED | as_password("reader"))
    assert reader.status == (200 if method == "GET" else 403)
    other = guarded.ask(method, path, body, MARKED | as_password("other"))
    assert other.status == (200 if path == "/v1/models" else 403)
    if path == "/v1/models":
        assert other.body == {"models": [], "asks_for_token": True}


def test_it_can_be_left_out(shop: Path, start_server: Any) -> None:
    server = start_server(shop, auth="token", environment={"ENDCAP_TOKEN": "all"}, page=False)
    bearer = {"authorization": "Bearer all"}
    for path in ("/", "/v1/models", f"{MODEL}/catalog", f"{MODEL}/products"):
        assert server.ask("GET", path, headers=bearer).status == 404
        assert server.ask("GET", path, headers=MARKED | as_password("all")).status == 401
    assert server.ask("GET", MODEL, headers=bearer).status == 200


def test_names_that_were_changed_since_the_release_was_loaded_are_not_shown(shop: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(shop, tmp_path / "changed")
    predictor = Predictor(open_release(copy))
    assert read_catalog(predictor).num_products == 3000
    (copy / ITEMS).write_bytes((shop / ITEMS).read_bytes() + b" ")
    with pytest.raises(RequestError, match="can't be read") as refused:
        read_catalog(predictor)
    assert (refused.value.status, str(tmp_path) in refused.value.message) == (503, False)


def test_a_person_asks_in_a_browser(served: Any, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as browser:
        browser.open(served.url + "/")
        browser.wait("document.querySelectorAll('.starters li').length === 6")
        browser.click("#customer")
        browser.type("ann")
        browser.press("Enter", 13)
        browser.wait("document.querySelectorAll('#result tbody tr').length === 12")
        assert "12 products for ann" in browser.text("#status")
        assert "knows the customer" in browser.text("#status")
        assert "in the server" in browser.text("#timings")
        assert "search" in browser.text("#timings .legend")
        # Most of what was found has no known name, and so no predicted value: the server's refusal is told.
        assert "The server refused (400)" in browser.text("#alert")

        browser.click("#category")
        browser.type("Garden")
        browser.press("Enter", 13)
        browser.wait("document.querySelectorAll('#result tbody tr').length === 5")
        assert browser.text("#alert") == ""
        assert HOSTILE in browser.text("#result")
        head = browser.text("#result thead")
        assert ("Predicted" in head, "Category" in head) == (True, True)

        browser.click("#search")
        browser.type("script img")
        browser.wait("document.querySelectorAll('#found [role=option]').length === 1")
        browser.press("Enter", 13)
        browser.wait("document.querySelectorAll('#result .tag').length === 1")
        assert HOSTILE in browser.text("#history")
        assert "with the history clicked here" in browser.text("#status")
        browser.click('[aria-label^="Leave out: Lamp"]')
        browser.wait("document.querySelectorAll('#result tbody tr').length === 4")
        browser.click("#request summary")
        command = browser.text("#command")

        assert browser.evaluate("document.title") == "Recommendations – Endcap"
        assert browser.evaluate("document.querySelectorAll('script, img').length") == 1
        assert not browser.events_of("Runtime.exceptionThrown")
        said = [event["entry"]["text"] for event in browser.events_of("Log.entryAdded")]
        assert [text for text in said if "status of 400" not in text] == []
        asked = {event["request"]["url"] for event in browser.events_of("Network.requestWillBeSent")}
        assert all(url.startswith((served.url, "data:")) for url in asked)
        assert not any("ann" in url for url in asked)
    assert command.startswith(f"curl '{served.url}{MODEL}:predict' \\")
    body = json.loads(re.search(r"-d '(.*)'$", command, re.DOTALL)[1])  # type: ignore[index]
    assert body["instances"] == [{"user_id": "ann", "user_history": ["p0"]}]
    assert (body["k"], body["filter"], len(body["exclude"])) == (12, {"category": "Garden"}, 1)
    assert len(served.predict(body).body["predictions"][0]["product_ids"]) == 4
