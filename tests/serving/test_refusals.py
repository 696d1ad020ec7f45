"""Every bad request gets its status and a message that says what was expected and found, never the value."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

import pytest

FULL = {"user_id": "cyd", "city": "Oslo", "age": 40}
TAKES = (
    "serving_default takes: user_id (STRING); optional: city (STRING), age (FLOAT), visits (INT64), "
    "event_time_us (INT64), user_history (product ids), k (INT64), exclude (product ids), only (product ids)."
)


def one(**changes: Any) -> dict[str, Any]:
    return {"instances": [{**FULL, **changes}]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"instances": [{"user_id": "x", "age": NaN}]}', "not valid JSON"),
        (b'{"instances": [{"user_id": "x", "age": Infinity}]}', "not valid JSON"),
        (b'{"instances": [{"user_id": "\xff"}]}', "not valid JSON"),
        (b'{"instances": [{"user_id": "\\ud800"}]}', "not valid JSON"),
        (b'{"instances": [{"user_id":' + b"[" * 100_000, "nested too deeply"),
        (b'{"instances": [{"user_id": "x", "user_history": ' + b"[" * 5000 + b"]" * 5000 + b"}]}", "nested too deeply"),
        ([], "Expected `object`, got `array`"),
        ({"instances": [3]}, "Expected `object`, got `int` - at `$.instances[0]`"),
        ({"instance": [FULL]}, "unknown field `instance`"),
        ({}, "found neither"),
        ({"instances": [FULL], "inputs": {"user_id": ["x"]}}, "found both"),
        ({"instances": []}, "at least one instance"),
        ({"inputs": {}}, "at least one instance"),
        ({"instances": [FULL] * 1025}, "at most 1,024 instances; found 1,025"),
        ({"instances": [FULL] * 1000, "k": 3000}, "at most 500,000 products in one answer"),
        ({"inputs": {"user_id": "x"}}, "inputs.'user_id': expected a list, one value per row; found a string"),
        ({"inputs": {"user_id": ["x", "y"], "city": ["z"]}}, "lists of one length; found 'user_id' 2, 'city' 1"),
        ({"inputs": {"user_id": ["x", 5]}}, "inputs[1].user_id: expected a string (STRING); found an integer"),
        (
            {"signature_name": "serve_rankings", **one()},
            "Unknown signature 'serve_rankings'. This release has: serving_default",
        ),
        ({"instances": [FULL, {"city": "Oslo"}]}, f"instances[1]: missing feature user_id. {TAKES}"),
        (one(user_id=None), f"instances[0]: missing feature user_id. {TAKES}"),
        (one(cty="Oslo"), f"instances[0]: unknown feature 'cty'. Did you mean city? {TAKES}"),
        (one(user_id=5), "instances[0].user_id: expected a string (STRING); found an integer"),
        (one(city=["Oslo"]), "instances[0].city: expected a string (STRING); found a list"),
        (one(age="40"), "instances[0].age: expected a number (FLOAT); found a string"),
        (one(age=True), "instances[0].age: expected a number (FLOAT); found true or false"),
        (one(age=1e300), "instances[0].age: expected a number within 32-bit float range (FLOAT)"),
        (one(visits=1.5), "instances[0].visits: expected an integer (INT64); found a number with a fraction"),
        (one(visits=2**63), "instances[0].visits: expected an integer of 64 bits (INT64); found a larger one"),
        (one(user_history="p1"), "instances[0].user_history: expected a list of product ids; found a string"),
        (
            one(user_history=["p1", 2]),
            "instances[0].user_history[1]: expected a product id, a string; found an integer",
        ),
        (one(exclude=["p1", 2]), "instances[0].exclude[1]: expected a product id, a string; found an integer"),
        (one(exclude=[None]), "instances[0].exclude[0]: expected a product id, a string; found null"),
        ({**one(), "exclude": {"p1": 1}}, "exclude: expected a list of product ids; found an object"),
        (one(k=0), "instances[0].k: expected 1 to 3,000, the number of products in the catalog; found 0"),
        ({**one(), "k": 3001}, "k: expected 1 to 3,000, the number of products in the catalog; found 3001"),
        ({**one(), "k": 10**30}, "k: expected 1 to 3,000"),
        ({**one(), "k": -1}, "found -1"),
        ({**one(), "k": True}, "k: expected a whole number from 1 to 3,000; found true or false"),
        ({**one(), "k": "5"}, "k: expected a whole number from 1 to 3,000; found a string"),
    ],
)
def test_bad_request_is_400(server: Any, body: Any, message: str) -> None:
    answer = server.predict(body)
    assert answer.status == 400
    assert message in answer.error
    assert "Traceback" not in answer.error


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/nothing", 404, "There is no route '/nothing'."),
        ("GET", "/v1/models/recommender/metdata", 404, "The nearest is /v1/models/recommender/metadata"),
        ("POST", "/v1/models/recomender:predict", 404, "no model 'recomender' here. This server has: recommender"),
        ("POST", "/v1/models/recommender/versions/9:predict", 404, "no version 9 here; it has: 1"),
        ("POST", "/v1/models/recommender:regress", 404, "The nearest is /v1/models/recommender"),
        ("GET", "/%00%0a<script>", 404, "There is no route '/\\x00\\n<script>'"),
        ("GET", "/v1/models/recommender:predict", 405, "'GET' is not allowed here; use POST"),
        ("DELETE", "/v1/models/recommender", 405, "use GET"),
        ("POST", "/health", 405, "use GET"),
        ("POST", "/monitoring/prometheus/metrics", 405, "use GET"),
    ],
)
def test_wrong_path_or_method(server: Any, method: str, path: str, status: int, message: str) -> None:
    answer = server.ask(method, path)
    assert (answer.status, message in answer.error) == (status, True), answer.error
    assert (status == 405) == ("allow" in answer.headers)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:8501", 200), ("recs.localhost", 200), ("127.0.0.1:1", 200), ("[::1]:8501", 200),
        ("10.1.2.3", 200), ("recommender:8501", 200), ("shop.internal", 200), ("rebound.example", 403),
        ("rebound.example:8501", 403), ("127.0.0.1.rebound.example", 403), ("localhost.example.", 403),
    ],
)  # fmt: skip
def test_no_web_page_reaches_a_server_on_loopback_under_a_name_of_its_own(server: Any, host: str, status: int) -> None:
    """S10: the Host header is checked where no token is asked for."""
    assert server.ask("GET", "/v1/models/recommender", headers={"host": host}).status == status


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def test_body_over_the_cap_is_413_by_its_declared_length(server: Any) -> None:
    # Only the header is sent: the refusal must not wait for the body.
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(
            b"POST /v1/models/recommender:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 16777217\r\n\r\n"
        )
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 413")
    assert b"16,777,216 bytes" in received


def test_body_over_the_cap_is_413_while_it_streams(server: Any) -> None:
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(
            b"POST /v1/models/recommender:predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        with contextlib.suppress(OSError):
            for _ in range(40):
                connection.sendall(chunk)
        received = connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 413")


def test_malformed_http_is_400(server: Any) -> None:
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")
    assert server.predict({"instances": [FULL]}).status == 200


@pytest.mark.parametrize("value", ["0", "-5", "soon", "1e9", "99999999999"])
def test_bad_deadline_is_400(server: Any, value: str) -> None:
    answer = server.predict({"instances": [FULL]}, {"x-request-timeout-ms": value})
    assert answer.status == 400
    assert "whole milliseconds" in answer.error


def test_values_never_show_in_errors_or_log(server: Any) -> None:
    private = "user-4711-private"
    for body in (one(user_id=[private]), one(age=private), {**one(), "k": private}, one(user_history=private)):
        answer = server.predict(body)
        assert answer.status == 400
        assert private not in json.dumps(answer.body)
    assert private not in server.log.read_text(encoding="utf-8")
