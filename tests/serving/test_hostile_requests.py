"""Requests that mean harm: nested, repeated, endless, in tiny pieces, out of bounds. Each is refused, and the server answers on."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from endcap.serving.errors import RequestError
from endcap.serving.metrics import ModelCounts
from endcap.serving.opening import load

ROOT = Path(__file__).parents[2]
FULL = {"user_id": "cyd", "city": "Oslo", "age": 40}
PREDICT = "/v1/models/recommender:predict"


def answers_on(server: Any) -> bool:
    return bool(server.predict({"instances": [FULL], "k": 3}).status == 200)


@pytest.mark.parametrize("depth", [101, 5_000, 250_000])
@pytest.mark.parametrize(
    ("before", "opens", "closes", "after"),
    [
        (b'{"instances":[{"user_id":', b"[", b"]", b"}]}"),
        (b'{"instances":[{"user_id":', b'{"a":', b"}", b"}]}"),
        (b'{"instances":', b"[", b"]", b"}"),
        (b"", b"[", b"", b""),
    ],
)
def test_b1_deep_nesting_is_400(
    server: Any, depth: int, before: bytes, opens: bytes, closes: bytes, after: bytes
) -> None:
    """B1."""
    inner = b"1" if opens.startswith(b"{") else b""
    assert server.predict(before + opens * depth + inner + closes * depth + after).status == 400
    assert answers_on(server)


def test_b2_lists_of_products_are_bounded_before_they_are_looked_up(server: Any) -> None:
    """B2: 16 MiB hold three million ids, whose look-up takes ten seconds; what is said once is copied for each instance."""
    ids = b"[" + b",".join([b'"p1"'] * 50_001) + b"]"
    for where in (b'"instances":[{"user_id":"x","user_history":%b}]', b'"instances":[{"user_id":"x","exclude":%b}]',
                  b'"instances":[{"user_id":"x"}],"only":%b'):  # fmt: skip
        answer = server.predict(b"{" + where % ids + b"}")
        assert (answer.status, "at most 50,000 product ids; found 50,001" in answer.error) == (400, True), answer.error
    instances = [{"user_id": "x", "exclude": ["p2"]}] * 1000
    started = time.monotonic()
    answer = server.predict({"instances": instances, "exclude": ["p1"] * 50_000, "k": 1})
    assert (answer.status, "at most 500,000 product ids" in answer.error) == (400, True), answer.error
    assert time.monotonic() - started < 5
    assert server.predict({"instances": instances[:1], "exclude": ["p1"] * 50_000, "k": 1}).status == 200


def memory_kib(server: Any, name: str) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def test_b3_many_tiny_chunks_take_no_more_memory_than_their_body(server: Any) -> None:
    """B3: a list of a million and a half pieces would take 60 MB."""
    assert answers_on(server)
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    before = memory_kib(server, "VmRSS")
    chunks = b"2\r\n  \r\n" * 100_000
    with socket.create_connection(server.address, timeout=20) as connection:
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        for _ in range(15):
            connection.sendall(chunks)
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")
    assert memory_kib(server, "VmHWM") - before < 20 * 1024
    assert answers_on(server)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "3.5e38"])
@pytest.mark.parametrize(
    "body", ['{"instances":[{"user_id":"x","age":%s}]}', '{"inputs":{"user_id":["x"],"age":[%s]}}']
)
def test_b4_what_is_no_finite_number_is_400(server: Any, value: str, body: str) -> None:
    """B4, in a request."""
    assert server.predict((body % value).encode()).status == 400


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_b4_no_answer_holds_what_is_no_finite_number(
    release: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B4, in an answer: of a model that gives such numbers, there is none."""
    loaded = load(release, ModelCounts())
    retriever = loaded.predictor.retriever
    assert retriever is not None
    broken = SimpleNamespace(run=lambda _names, _feed: [np.full((1, 8), value, np.float32)])
    monkeypatch.setattr(retriever, "_graph", broken)
    request = loaded.predictor.decoder.decode(b'{"instances":[{"user_id":"x"}]}')
    with pytest.raises(ValueError, match="not finite"):
        loaded.work([request])


def test_b4_numbers_that_a_model_overflows_at_are_the_callers_to_mend(multitask_server: Any) -> None:
    """B4, in an answer: each number is finite, what the model makes of them isn't."""
    instance = {"user_id": "ann", "item_id": "p1", "price": 3.4028234663852886e38}
    answer = multitask_server.predict({"signature_name": "serve_ranking", "instances": [instance]})
    assert (answer.status, "Send numbers of a usual size" in answer.error) == (400, True), answer.body
    usual = multitask_server.predict({"signature_name": "serve_ranking", "instances": [instance | {"price": 9.5}]})
    assert usual.status == 200


def test_b4_of_a_vector_that_is_finite_without_the_requests_numbers(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(release, ModelCounts())
    retriever = loaded.predictor.retriever
    assert retriever is not None
    ages = []

    def run(_names: Any, feed: Any) -> list[Any]:
        ages.append(feed["age"].ravel().tolist())
        return [np.full((1, 8), np.inf if feed["age"].max() > 1e30 else 1, np.float32)]

    monkeypatch.setattr(retriever, "_graph", SimpleNamespace(run=run))
    request = loaded.predictor.decoder.decode(b'{"instances":[{"user_id":"x","age":3e38}]}')
    with pytest.raises(RequestError, match="Send numbers of a usual size") as refused:
        loaded.work([request])
    assert refused.value.status == 400
    assert len(ages) == 2


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"instances":[{"user_id":"ann","user_id":"bob"}]}', "user_id"),
        (b'{"instances": [{"user_id": "ann", "age": 3, "user_id": "bob"}]}', "user_id"),
        (b'{"instances":[{"user_id":"a:b\\":","k":1,"k":2}]}', "k"),
        (b'{"k":1,"instances":[{"user_id":"ann"}],"k":2}', "k"),
        (b'{"instances":[{"user_id":"ann"}],"instances":[{"user_id":"bob"}]}', "instances"),
        (b'{"inputs":{"user_id":["a"],"user_id":["b"]}}', "user_id"),
    ],
)
def test_b5_a_key_that_stands_twice_is_400(server: Any, body: bytes, key: str) -> None:
    """B5."""
    answer = server.predict(body)
    assert (answer.status, f"'{key}' stands twice" in answer.error) == (400, True), answer.body


@pytest.mark.parametrize(
    "body",
    [b'{"instances":[{"user_id":"a\\":b"}],"k":3}', b'{"instances":[{"user_id" : "a","age":null}],"k":null}',
     b'{"instances":[{"user_id":"a"},{"user_id":"a"}]}', b'{"instances":[{"user_id":"\\u0022:x"}]}'],
)  # fmt: skip
def test_what_only_looks_like_a_key_that_stands_twice_is_answered(server: Any, body: bytes) -> None:
    assert server.predict(body).status == 200


@pytest.mark.parametrize(
    "path",
    ["/v1/models/../../etc/passwd", "/v1/models/%2e%2e/%2e%2e/etc/passwd", "/v1/models/%252e%252e%252f:predict", "/v1/models/..%5c..",
     "/v1/models/recommender/versions/..%2f1", "/v1/models/recommender/versions/%2e", "/v1/models/C:%5cwindows", "/v1/models//etc/passwd",
     "/v1/models/recommender%23:predict", "/v1/models/recommender%3f", "/v1/models/recommender%00", "/v1/models/file:%2f%2f%2fetc",
     "/v1/models/recommender/versions/1%2f..%2f1", "//v1/models/recommender", "/v1/models/re%25%36%33ommender", "/v1/models/%ff%fe",
     "/v1/models/recommender/labels/..%2f..%2fstable"],
)  # fmt: skip
def test_s1_paths_are_decoded_once_and_then_checked(server: Any, path: str) -> None:
    """S1: none of them is a file, a version, or a model under another name."""
    for method in ("GET", "POST"):
        answer = server.ask(method, path, {"instances": [FULL]} if method == "POST" else None)
        assert answer.status in (404, 405), (method, answer.status)
        assert "root:" not in answer.error
    assert server.ask("GET", "/v1/models/re%63ommender").status == 200


def test_s2_the_lint_rules_bite() -> None:
    """S2: what would run code when a file is read doesn't pass `make lint`."""
    lines = {
        "import pickle": "TID251", "from joblib import load": "TID251", "import dill": "TID251", "import cloudpickle": "TID251",
        "from hydra.utils import instantiate": "TID251", "eval('1')": "S307", "torch.load('f')": "TID251",
        "yaml.load('a', yaml.Loader)": "S506", "marshal.loads(b'')": "S302",
    }  # fmt: skip
    code = "\n".join(["import marshal, torch, yaml", *lines]) + "\n"
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise"]
    command += ["--stdin-filename", "src/endcap/serving/new.py", "-"]
    found = subprocess.run(command, input=code, capture_output=True, text=True, cwd=ROOT, check=False)
    for place, (line, rule) in enumerate(lines.items(), 2):
        assert re.search(rf"^src/endcap/serving/new.py:{place}:\d+: {rule} ", found.stdout, re.MULTILINE), (
            line,
            found.stdout,
        )


def test_s2_no_line_of_ours_is_excepted_from_them() -> None:
    """S2."""
    excepted = [
        f"{file}: {line.strip()}"
        for file in (ROOT / "src").rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if "noqa" in line and any(rule in line for rule in ("TID251", "S301", "S302", "S307"))
    ]
    assert excepted == []
