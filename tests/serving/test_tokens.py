"""Tokens: who may ask what, by the head alone, and a file of them that changes while the server runs."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from endcap.contracts.errors import InputError
from endcap.serving.door import guard_of
from endcap.serving.errors import RequestError
from endcap.serving.settings import ServerSettings
from endcap.serving.token_file import TokenEntry, add_token, read_tokens, remove_token
from endcap.serving.tokens import Tokens

FULL = {"user_id": "cyd", "city": "Oslo", "age": 40}
PREDICT, METADATA = "/v1/models/recommender:predict", "/v1/models/recommender/metadata"


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def entry(name: str, token: str, *scopes: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest(), "scopes": list(scopes), **more}


def write(file: Path, *entries: dict[str, Any]) -> Path:
    aside = file.with_suffix(".new")
    aside.write_text(json.dumps({"tokens": list(entries)}), encoding="utf-8")
    aside.replace(file)
    return file


def status_of(tokens: Tokens, token: str, scope: Any = None, model: str | None = None) -> int:
    try:
        tokens.authorize(f"Bearer {token}".encode(), scope, model)
    except RequestError as error:
        return error.status
    return 200


def test_each_token_may_do_what_its_scopes_and_models_say(tmp_path: Path) -> None:
    file = write(
        tmp_path / "tokens.json",
        entry("shop", "s", "predict", models=["recommender"], requests_per_second=5),
        entry("watch", "w", "read"),
        entry("ops", "o", "admin"),
    )
    tokens = Tokens("main", file)
    allowed = {
        (token, scope): status_of(tokens, token, scope, "recommender") for token in ("s", "w", "o", "main", "x")
        for scope in ("predict", "read", "admin")
    }  # fmt: skip
    assert {key for key, status in allowed.items() if status == 200} == {
        ("s", "predict"), ("w", "read"), ("o", "admin"), ("main", "predict"), ("main", "read"),
    }  # fmt: skip
    assert set(allowed.values()) == {200, 403}
    assert status_of(tokens, "s", "predict", "other") == 403
    assert status_of(tokens, "main", "predict", "other") == 200
    caller = tokens.authorize(b"bearer s")
    assert (caller.name, caller.requests_per_second, caller.concurrent_requests) == ("shop", 5, None)


@pytest.mark.parametrize("header", [b"", b"Bearer", b"Bearer  ", b"Basic s", b"s", b"Bearers s"])
def test_what_is_no_bearer_token_is_401(header: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        Tokens("s").authorize(header)
    assert caught.value.status == 401
    assert caught.value.headers == ((b"www-authenticate", b"Bearer"),)


def test_yaml_is_read_too(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text(f"tokens:\n- name: shop\n  sha256: {hashlib.sha256(b's').hexdigest()}\n  scopes: [predict]\n")
    assert status_of(Tokens(None, file), "s", "predict") == 200


GOOD = entry("shop", "s", "predict")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: b: c", "is neither YAML nor JSON in line 1"),
        ("\x00", "is neither YAML nor JSON"),
        ("!!python/object/apply:os.getcwd []", "is neither YAML nor JSON"),
        ("[]", "is no file of tokens"),
        ("tokens: 3", "is no file of tokens"),
        (json.dumps({"tokens": [{**GOOD, "scopes": ["root"]}]}), "is no file of tokens"),
        (json.dumps({"tokens": [{**GOOD, "token": "s"}]}), "unknown field `token`"),
        (json.dumps({"tokens": [{**GOOD, "sha256": "hunter2"}, {**GOOD, "scopes": []}]}),
         "the token's hash and never the token; tokens[1].scopes: expected at least one of predict, read, admin; tokens: 2 are named shop"),
        (json.dumps({"tokens": [GOOD, {**GOOD, "name": "other"}]}), "two have one sha256"),
        (json.dumps({"tokens": [{**GOOD, "name": "a b"}]}), "tokens[0].name: expected 1 to 64 letters"),
        (json.dumps({"tokens": [{**GOOD, "requests_per_second": 0}]}), "expected a number over 0"),
        (json.dumps({"tokens": [{**GOOD, "concurrent_requests": 0}]}), "expected 1 or more"),
        ("#" * (2**20 + 1), "too large"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_says_what_is_wrong_and_shows_no_secret(tmp_path: Path, content: str, message: str) -> None:
    """S4: YAML by safe load."""
    file = tmp_path / "tokens.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        Tokens(None, file)
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_breaks_leaves_the_tokens_as_they_were(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "tokens.json", entry("shop", "s", "predict"))
    tokens = Tokens(None, file)
    for break_it in (lambda: file.write_text("{", encoding="utf-8"), file.unlink):
        break_it()
        for _ in range(3):
            tokens.refresh()
        assert status_of(tokens, "s", "predict") == 200
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2, caplog.text
    write(file, entry("shop", "t", "predict"))
    tokens.refresh()
    assert (status_of(tokens, "s", "predict"), status_of(tokens, "t", "predict")) == (403, 200)


def test_a_token_is_made_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    made = [add_token(file, TokenEntry(name, "", ["predict"])) for name in ("a", "b")]
    assert len(set(made)) == 2
    assert all(len(token) > 40 for token in made)
    assert not any(token in file.read_text(encoding="utf-8") for token in made)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [status_of(Tokens(None, file), token, "predict") for token in made] == [200, 200]
    with pytest.raises(InputError, match="a token a already"):
        add_token(file, TokenEntry("a", "", ["predict"]))
    remove_token(file, "a")
    assert [one.name for one in read_tokens(file)] == ["b"]
    with pytest.raises(InputError, match="no token 'a'; it has: b"):
        remove_token(file, "a")


TOKENS = {"predict": "token-p", "read": "token-r", "admin": "token-a"}


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokens") / "tokens.json"
    others = entry("others", "token-o", "predict", "read", models=["another"])
    return write(file, *(entry(scope, token, scope) for scope, token in TOKENS.items()), others)


@pytest.fixture(scope="module")
def guarded(release: Path, tokens_file: Path, start_server: Any) -> Any:
    return start_server(release, auth="token", environment={"ENDCAP_TOKEN": "main"}, tokens_file=tokens_file)


# What each route answers to whoever may use it.
ROUTES = {
    ("POST", PREDICT): ("predict", 200),
    ("POST", "/v1/models/recommender/versions/1:predict"): ("predict", 200),
    ("POST", "/v1/models/r%65commender:predict"): ("predict", 200),
    ("POST", "/no/such/route"): ("predict", 404),
    ("POST", "/v2/models/recommender/nothing"): ("predict", 404),
    ("GET", "/v1/models/recommender"): ("read", 200),
    ("GET", METADATA): ("read", 200),
    ("GET", "/v1/models/recommender/versions/1"): ("read", 200),
    ("GET", "/monitoring/prometheus/metrics"): ("read", 200),
    ("GET", "/no/such/route"): ("read", 404),
    ("GET", "/admin/models"): ("read", 404),
    ("DELETE", "/v1/models/recommender"): ("read", 405),
}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_but_health_asks_for_a_token_of_its_scope(guarded: Any, method: str, path: str) -> None:
    """S8, S12: no route is answered, and none is known to be missing, without a token that may use it."""
    scope, status = ROUTES[method, path]
    body = {"instances": [FULL]} if method == "POST" else None
    assert guarded.ask(method, path, body).status == 401
    assert guarded.ask(method, path, body, bearer("wrong")).status == 403
    found = {name: guarded.ask(method, path, body, bearer(token)).status for name, token in TOKENS.items()}
    assert found == {name: status if name == scope else 403 for name in TOKENS}
    assert guarded.ask(method, path, body, bearer("main")).status == status
    if "recommender" in path:
        assert guarded.ask(method, path, body, bearer("token-o")).status == 403


def test_health_needs_no_token(guarded: Any) -> None:
    assert guarded.ask("GET", "/health").status == 200


@pytest.mark.slow
def test_a_token_that_is_taken_back_is_refused_within_seconds(release: Path, tmp_path: Path, start_server: Any) -> None:
    file = write(tmp_path / "tokens.json", entry("shop", "s", "predict"))
    server = start_server(release, auth="token", environment={"ENDCAP_TOKEN": ""}, tokens_file=file)
    assert server.predict({"instances": [FULL]}, bearer("s")).status == 200
    write(file, entry("shop", "t", "predict"))
    until = time.monotonic() + 10
    while server.predict({"instances": [FULL]}, bearer("s")).status == 200 and time.monotonic() < until:
        time.sleep(0.05)
    assert server.predict({"instances": [FULL]}, bearer("s")).status == 403
    assert server.predict({"instances": [FULL]}, bearer("t")).status == 200


@pytest.mark.parametrize(
    ("auth", "message"), [(None, "Say --auth token to ask callers for one"), ("token", "no file of tokens")]
)
def test_starts_with_a_file_of_tokens_that_is_right_and_meant_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auth: Any, message: str
) -> None:
    monkeypatch.delenv("ENDCAP_TOKEN", raising=False)
    file = tmp_path / "tokens.json"
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        guard_of(ServerSettings((), auth=auth, tokens_file=file))


def test_s3_a_head_alone_is_refused(guarded: Any) -> None:
    """S3: without a token no byte of the body is waited for, decompressed or parsed."""
    for more in (
        "content-length: 1000000",
        "transfer-encoding: chunked",
        "content-encoding: gzip\r\ncontent-length: 9",
    ):
        with socket.create_connection(guarded.address, timeout=10) as connection:
            connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\n{more}\r\n\r\n".encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 401")


def test_the_command_makes_lists_and_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from endcap.cli.main import main

    file = str(tmp_path / "tokens.yaml")

    def run(*arguments: str) -> list[str]:
        with pytest.raises(SystemExit) as ended:
            main(["tokens", *arguments, "--file", file])
        assert ended.value.code == 0
        return capsys.readouterr().out.splitlines()

    (token,) = run("new", "shop", "--scope", "predict", "--scope", "read", "--requests-per-second", "5")
    assert status_of(Tokens(None, Path(file)), token, "read") == 200
    assert run("list") == ["shop: predict, read; a second: 5.0"]
    assert run("remove", "shop")[0].startswith("shop is out of")
    assert run("list") == []
