"""Pages of other sites, request ids and clients that ask too much, at a server's door."""

from __future__ import annotations

from typing import Any

import pytest

from endcap.contracts.errors import InputError
from endcap.serving.origins import Origins
from tests.serving.test_tokens import entry, write

FULL = {"user_id": "cyd", "city": "Oslo", "age": 40}
SHOP = "https://shop.example"
PREDICT = "/v1/models/recommender:predict"


@pytest.fixture(scope="module")
def guarded(release: Any, tmp_path_factory: pytest.TempPathFactory, start_server: Any) -> Any:
    file = write(
        tmp_path_factory.mktemp("tokens") / "tokens.json", entry("slow", "slow", "predict", requests_per_second=0.01)
    )
    return start_server(
        release, auth="token", environment={"ENDCAP_TOKEN": "main"}, cors_origins=[SHOP], tokens_file=file
    )


def ask(server: Any, method: str = "POST", **headers: str) -> Any:
    named = {"authorization": "Bearer main"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return server.ask(method, PREDICT, {"instances": [FULL], "k": 3} if method == "POST" else None, named)


def test_a_page_of_a_named_site_may_ask(guarded: Any) -> None:
    asks_first = {"origin": SHOP, "access-control-request-method": "POST"}
    preflight = guarded.ask("OPTIONS", PREDICT, headers=asks_first)
    assert (preflight.status, preflight.body) == (200, b"")
    assert preflight.headers["access-control-allow-origin"] == SHOP
    assert preflight.headers["vary"] == "origin"
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    answer = ask(guarded, origin=SHOP)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, SHOP)
    refused = guarded.ask("POST", PREDICT, b"{", {"origin": SHOP})
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, SHOP)


@pytest.mark.parametrize("origin", ["https://shop.example.evil", "http://shop.example", "null", "*", ""])
def test_pages_of_other_sites_may_not(guarded: Any, origin: str) -> None:
    preflight = guarded.ask("OPTIONS", PREDICT, headers={"origin": origin, "access-control-request-method": "POST"})
    assert preflight.status == 403
    assert "access-control-allow-origin" not in preflight.headers
    assert "access-control-allow-origin" not in ask(guarded, origin=origin).headers


def test_without_named_sites_there_is_no_cors(server: Any) -> None:
    headers = {"origin": SHOP, "access-control-request-method": "POST"}
    assert server.ask("OPTIONS", PREDICT, headers=headers).status == 405
    assert "access-control-allow-origin" not in server.predict({"instances": [FULL]}, {"origin": SHOP}).headers


@pytest.mark.parametrize(
    "origin", ["*", "shop.example", "https://shop.example/", "https://Shop.example", "https://*.example", ""]
)
def test_what_is_no_site_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(InputError, match="expected a site"):
        Origins([origin])


def test_a_request_id_comes_back_unless_it_could_be_anything(guarded: Any) -> None:
    assert ask(guarded, x_request_id="a-1:b").headers["x-request-id"] == "a-1:b"
    for given in ("ann@shop.example", "x" * 129, "a b"):
        assert "x-request-id" not in ask(guarded, x_request_id=given).headers
    assert "x-request-id" not in ask(guarded).headers


def test_l1_a_client_that_asks_too_much_is_told_when_to_ask_again(guarded: Any) -> None:
    """L1, of one client: 429 with Retry-After at once, while others are answered."""
    slow = {"authorization": "Bearer slow"}
    answers = [ask(guarded, **slow) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 429, 429]
    for answer in answers[1:]:
        assert 90 <= int(answer.headers["retry-after"]) <= 100
        assert "of one client" in answer.error
    assert guarded.ask("GET", "/v1/models/recommender", headers=slow).status == 403
    assert ask(guarded).status == 200
