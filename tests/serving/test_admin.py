"""The admin port: apart from predictions, for those who may alone, and what is set there holds in every process."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.release import MANIFEST, ReleaseManifest
from endcap.serving.control import CONTROL, Control, describe_policy, policy_of
from endcap.serving.door import guard_of
from endcap.serving.settings import All, Latest, ModelSettings, ServerSettings, Specific
from endcap.serving.sources import OneRelease
from endcap.serving.versions import Models, ServedModel
from tests.serving.conftest import Server
from tests.serving.test_additions import write_release as write_tiny_with_item_graph
from tests.serving.test_tokens import bearer, entry, write

FULL = {"user_id": "cyd", "city": "Oslo", "age": 40}
MODEL = "/admin/models/recommender"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def add_version(folder: Path, release: Path, number: int) -> None:
    aside = folder / f".{number}"
    shutil.copytree(release, aside)
    manifest = msgspec.json.decode((release / MANIFEST).read_bytes(), type=ReleaseManifest)
    (aside / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, name=f"small-{number}")))
    aside.rename(folder / str(number))


@pytest.fixture
def folder(release: Path, tmp_path: Path) -> Path:
    (tmp_path / "versions").mkdir()
    for number in (3, 4):
        add_version(tmp_path / "versions", release, number)
    return tmp_path / "versions"


Started = tuple[Server, Server]


@pytest.fixture
def start_both(start_server: Any) -> Callable[..., Started]:
    """A server, and its admin port as one."""

    def start(release: Path, **more: Any) -> Started:
        port = free_port()
        server = start_server(release, admin_port=port, **more)
        return server, Server(server.process, f"http://127.0.0.1:{port}", server.log)

    return start


def version_answering(server: Server) -> str:
    return str(server.ask("GET", "/health").body["version"])


def test_models_are_changed_on_the_admin_port_alone(folder: Path, start_both: Callable[..., Started]) -> None:
    """S9: admin and inference listen apart. F3: rollback to a pinned version. F4: labels name what is loaded alone."""
    server, admin = start_both(folder)
    try:
        told = admin.ask("GET", "/admin/models").body["models"][0]
        assert (told["name"], told["policy"], told["current"], told["labels"]) == ("recommender", {"latest": 1}, 4, {})
        assert [(one["version"], one["state"], one["is_wanted"]) for one in told["versions"]] == [
            (4, "AVAILABLE", True)
        ]

        refused = admin.ask("POST", f"{MODEL}/labels", {"stable": 3})
        assert (refused.status, "version 3 of recommender isn't loaded" in refused.error) == (409, True)
        assert admin.ask("POST", f"{MODEL}/policy", {"specific": [3, 9]}).status == 409
        assert version_answering(server) == "4"

        assert admin.ask("POST", f"{MODEL}/policy", {"specific": [3]}).body["current"] == 3
        assert version_answering(server) == "3"
        assert admin.ask("POST", f"{MODEL}/labels", {"stable": 3}).body["labels"] == {"stable": 3}
        assert admin.ask("POST", f"{MODEL}/policy", {"latest": 1}).body["current"] == 4
        labelled = "/v1/models/recommender/labels/stable:predict"
        assert server.ask("POST", labelled, {"instances": [FULL]}).status == 200
        assert admin.ask("POST", f"{MODEL}/labels", {"stable": None}).body["labels"] == {}
        assert server.ask("POST", labelled, {"instances": [FULL]}).status == 404
        assert admin.ask("POST", f"{MODEL}/labels", {"stable": None}).status == 409

        for path in ("/admin/models", MODEL):
            assert server.ask("GET", path).status == 404
        assert server.ask("POST", f"{MODEL}/policy", {"all": True}).status == 404
        assert admin.predict({"instances": [FULL]}).status == 404
        assert admin.ask("GET", "/v1/models/recommender").status == 404
        assert admin.ask("GET", "/health").body["status"] == "ready"
        assert b"endcap_ready 1.0" in admin.ask("GET", "/monitoring/prometheus/metrics").body
    finally:
        assert server.stop() == 0
    assert server.log.read_text(encoding="utf-8") == ""


def test_a_reload_sees_what_has_come_and_says_what_is_broken(
    folder: Path, release: Path, start_both: Callable[..., Started]
) -> None:
    """F2, seen from the admin port: the old version answers on, and the reason is told."""
    server, admin = start_both(folder, poll_seconds=0)
    add_version(folder, release, 5)
    assert version_answering(server) == "4"
    assert admin.ask("POST", f"{MODEL}/reload").body["current"] == 5
    add_version(folder, release, 6)
    graph = folder / "6" / "query.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")
    failed = admin.ask("POST", f"{MODEL}/reload")
    assert failed.status == 409
    assert "Version 6 of recommender can't be loaded" in failed.error
    assert "Answering: 5" in failed.error
    assert version_answering(server) == "5"
    shutil.copyfile(release / "query.onnx", graph)
    assert admin.ask("POST", f"{MODEL}/reload").body["current"] == 6
    server.stop()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", f"{MODEL}/policy", b"{", 400, "not valid JSON"),
        ("POST", f"{MODEL}/policy", b"[" * 100_000, 400, "not valid JSON"),
        ("POST", f"{MODEL}/policy", [], 400, "found a list"),
        ("POST", f"{MODEL}/policy", {"newest": 1}, 400, 'Expected {"latest": 1}'),
        ("POST", f"{MODEL}/labels", {"a b": 4}, 400, "'a b' is no label"),
        ("POST", f"{MODEL}/labels", {"stable": "4"}, 400, "found a string"),
        ("POST", f"{MODEL}/labels", b" " * (2**20 + 1), 413, "over"),
        ("POST", "/admin/models/other/reload", None, 404, "no model 'other'"),
        ("POST", MODEL, None, 405, "use GET"),
        ("GET", f"{MODEL}/policy", None, 405, "use POST"),
        ("GET", "/admin", None, 404, "There is no route '/admin'"),
        ("GET", f"{MODEL}/../..%2fetc", None, 404, "There is no route"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    admin: Server, method: str, path: str, body: Any, status: int, message: str
) -> None:
    answer = admin.ask(method, path, body)
    assert (answer.status, message in answer.error) == (status, True), answer.error


@pytest.fixture(scope="module")
def admin(release: Path, start_server: Any) -> Server:
    port = free_port()
    server = start_server(release, admin_port=port)
    return Server(server.process, f"http://127.0.0.1:{port}", server.log)


@pytest.mark.parametrize(
    "headers", [{"origin": "http://127.0.0.1"}, {"origin": "null"}, {"host": "rebound.example"}, {"host": "a.b:80"}]
)
def test_no_web_page_reaches_the_admin_port(admin: Server, headers: dict[str, str]) -> None:
    """S10: Host and Origin are checked."""
    assert admin.ask("GET", "/admin/models", headers=headers).status == 403
    assert admin.ask("POST", f"{MODEL}/reload", headers=headers).status == 403


def test_with_tokens_the_admin_port_asks_for_those_of_its_scope(
    release: Path, tmp_path: Path, start_both: Callable[..., Started]
) -> None:
    """S8, S12 of the admin port."""
    file = write(tmp_path / "tokens.json", *(entry(scope, scope, scope) for scope in ("predict", "read", "admin")))
    server, admin = start_both(release, auth="token", tokens_file=file, environment={"ENDCAP_TOKEN": "main"})
    found = {
        (path, token): admin.ask(method, path, None, bearer(token) if token else {}).status
        for method, path in (("GET", "/admin/models"), ("POST", f"{MODEL}/reload"), ("GET", "/no/such"),
                             ("GET", "/monitoring/prometheus/metrics"), ("GET", "/health"))
        for token in ("", "wrong", "main", "predict", "read", "admin")
    }  # fmt: skip
    reads = {"/admin/models": ["admin"], f"{MODEL}/reload": ["admin"], "/no/such": ["admin"], "/health": ["", "wrong", "main", "predict", "read", "admin"],
             "/monitoring/prometheus/metrics": ["main", "read"]}  # fmt: skip
    for (path, token), status in found.items():
        if token in reads.get(path, []):
            assert status == (404 if path == "/no/such" else 200), (path, token)
        else:
            assert status == (403 if token else 401), (path, token)
    assert server.predict({"instances": [FULL]}, bearer("admin")).status == 403
    assert admin.ask("GET", "/admin/models", None, {**bearer("admin"), "host": "ops.example"}).status == 200
    server.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"admin_host": "0.0.0.0"}, "needs tokens: endcap tokens new NAME --scope admin"),  # noqa: S104
        ({"auth": "token"}, "No token has the scope admin"),
        ({"auth": "none", "tokens_file": Path("none.yaml")}, "none.yaml can't be read"),
    ],
)
def test_no_admin_port_that_anybody_reaches(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("ENDCAP_TOKEN", "main")
    with pytest.raises(InputError, match=message):
        guard_of(ServerSettings((), admin_port=8600, **settings))


@pytest.mark.slow
def test_what_is_set_in_one_process_holds_in_all_and_after_a_restart(
    folder: Path, tmp_path: Path, start_both: Callable[..., Started]
) -> None:
    control = tmp_path / "control"
    for num_workers in (2, 1):
        server, admin = start_both(folder, num_workers=num_workers, control_dir=control)
        if num_workers == 2:
            assert admin.ask("POST", f"{MODEL}/policy", {"specific": [3]}).body["current"] == 3
            until = time.monotonic() + 20
            in_a_row = 0
            while in_a_row < 20 and time.monotonic() < until:
                in_a_row = in_a_row + 1 if version_answering(server) == "3" else 0
            assert in_a_row == 20
        assert version_answering(server) == "3"
        assert server.stop() == 0
    assert json.loads((control / CONTROL).read_bytes())["models"] == {"recommender": {"policy": {"specific": [3]}}}


def test_wishes_reach_every_reader_of_the_folder(tmp_path: Path) -> None:
    source = OneRelease(tmp_path / "7")
    models = Models([ServedModel(ModelSettings("m", source, labels={"stable": 7, "old": 6}))])
    one, other = Control(tmp_path), Control(tmp_path)
    other.apply(models)
    assert models.served[0].wished_labels == {"stable": 7, "old": 6}

    def set_both(wishes: Any) -> None:
        wishes.policy = {"all": True}
        wishes.labels = {"old": None, "next": 8}

    one.change("m", set_both)
    one.change("another", lambda wishes: wishes.labels.update(a=1))
    other.apply(models)
    assert (models.served[0].policy, models.served[0].wished_labels) == (All(), {"stable": 7, "next": 8})
    assert other.read().generation == 2
    (tmp_path / CONTROL).unlink()
    other.apply(models)
    assert (models.served[0].policy, models.served[0].wished_labels) == (Latest(), {"stable": 7, "old": 6})
    (tmp_path / CONTROL).write_text('{"generation": 3, "models": {"m": {"policy": {"newest": 1}}}}')
    with pytest.raises(ArtifactError, match="can't be read"):
        other.apply(models)


def test_wishes_without_a_folder_are_kept_in_memory() -> None:
    control = Control()
    control.change("m", lambda wishes: wishes.labels.update(a=1))
    assert control.read().models["m"].labels == {"a": 1}


@pytest.mark.parametrize("policy", [Latest(3), All(), Specific((1, 5))])
def test_a_policy_is_said_as_it_is_read(policy: Any) -> None:
    assert policy_of(describe_policy(policy)) == policy


@pytest.mark.parametrize(
    "said",
    [{}, {"latest": 0}, {"latest": True}, {"all": False}, {"all": 1}, {"specific": []}, {"specific": ["3"]}, {"specific": [-1]},
     {"specific": [True]}, {"latest": 1, "all": True}, {"specific": 3}, [], "all", None],
)  # fmt: skip
def test_what_is_no_policy_is_refused(said: Any) -> None:
    with pytest.raises(ValueError, match="Expected"):
        policy_of(said)


@pytest.mark.slow
def test_products_added_to_a_model_outlive_versions_and_processes(
    tmp_path: Path, start_both: Callable[..., Started]
) -> None:
    folder, control = tmp_path / "versions", tmp_path / "control"
    folder.mkdir()
    write_tiny_with_item_graph(folder / "1")
    asked = {"instances": [{"user_id": 1, "tastes": [1.0, 0.1]}], "k": 2}

    def answer(server: Server) -> list[int]:
        return list(server.predict(asked).body["predictions"][0]["product_ids"])

    server, admin = start_both(folder, control_dir=control)
    assert answer(server) == [10, 20]
    refused = admin.ask("POST", f"{MODEL}/items", {"items": [{"item_id": 40, "colour": 1}]})
    assert (refused.status, "colour" in refused.error) == (400, True)
    assert admin.ask("POST", f"{MODEL}/items", {"items": 3}).status == 400
    for price in (0.5, 0.75):
        added = admin.ask("POST", f"{MODEL}/items", {"items": [{"item_id": 40, "price": price, "weight": 1}]})
        assert added.body == {"added": 1}
    assert answer(server) == [10, 40]
    write_tiny_with_item_graph(tmp_path / "2")
    (tmp_path / "2").rename(folder / "2")
    assert admin.ask("POST", f"{MODEL}/reload").body["current"] == 2
    assert answer(server) == [10, 40]
    assert server.stop() == 0
    server, _ = start_both(folder, control_dir=control)
    assert answer(server) == [10, 40]
    server.stop()
    (kept,) = json.loads((control / CONTROL).read_bytes())["models"]["recommender"]["items"]
    assert kept == {"version": 1, "item": {"item_id": 40, "price": 0.75, "weight": 1}}
