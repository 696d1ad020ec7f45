"""Starting, describing itself, guarding the door, and stopping without losing a request."""

from __future__ import annotations

import http.client
import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from endcap.serving import _allow_many_connections

FULL = {"user_id": "cyd", "city": "Oslo", "age": 40}


def test_status_and_metadata_have_tensorflow_servings_shape(server: Any) -> None:
    status = server.ask("GET", "/v1/models/recommender").body
    assert status == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    metadata = server.ask("GET", "/v1/models/recommender/metadata").body
    assert metadata["model_spec"] == {"name": "recommender", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["age"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
        "name": "age:0",
    }
    assert set(signature["inputs"]) == {"user_id", "city", "age", "visits", "event_time_us", "user_history"}
    assert [size["size"] for size in signature["outputs"]["product_ids"]["tensor_shape"]["dim"]] == ["-1", "20"]
    assert signature["outputs"]["product_ids"]["dtype"] == "DT_STRING"


def test_health_names_the_release(server: Any) -> None:
    answer = server.ask("GET", "/health")
    assert (answer.status, answer.body["status"]) == (200, "ready")
    assert len(answer.body["digest"]) == 64
    assert server.ask("HEAD", "/health").status == 200


def test_metrics_are_prometheus_and_count(server: Any) -> None:
    def sample(name: str, **labels: str) -> float:
        text = server.ask("GET", "/monitoring/prometheus/metrics").body.decode()
        found = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found)

    before = {code: sample("endcap_requests_total", route="predict", code=code) for code in ("200", "400")}
    queued = sample("endcap_stage_duration_seconds_count", stage="queue")
    assert server.predict({"instances": [FULL]}).status == 200
    assert server.predict({"instances": [FULL], "k": 0}).status == 400
    assert sample("endcap_requests_total", route="predict", code="200") == before["200"] + 1
    assert sample("endcap_requests_total", route="predict", code="400") == before["400"] + 1
    assert sample("endcap_stage_duration_seconds_count", stage="queue") == queued + 1
    for stage in ("features", "tower", "search", "serialize"):
        assert sample("endcap_stage_duration_seconds_sum", stage=stage) > 0
    assert sample("endcap_release_info", digest=server.ask("GET", "/health").body["digest"]) == 1
    assert sample("endcap_queued_instances") == 0


def test_version_is_the_release_folders_number(release: Path, tmp_path: Path, start_server: Any) -> None:
    shutil.copytree(release, tmp_path / "7")
    server = start_server(tmp_path / "7")
    assert server.ask("GET", "/v1/models/recommender/versions/7").body["model_version_status"][0]["version"] == "7"
    assert server.ask("POST", "/v1/models/recommender/versions/7:predict", {"instances": [FULL]}).status == 200
    assert server.stop() == 0


def test_token_is_asked_for_before_the_body_is_read(release: Path, start_server: Any) -> None:
    server = start_server(release, auth="token", environment={"ENDCAP_TOKEN": "correct-horse"})
    right, wrong = {"authorization": "Bearer correct-horse"}, {"authorization": "Bearer correct-hors"}
    assert server.predict(b"{", None).status == 401
    assert server.predict(b"{", None).headers["www-authenticate"] == "Bearer"
    assert server.predict({"instances": [FULL]}, {"authorization": "Basic abc"}).status == 401
    assert server.predict(b"{", wrong).status == 403
    assert server.predict({"instances": [FULL]}, right).status == 200
    assert server.ask("GET", "/v1/models/recommender/metadata").status == 401
    assert server.ask("GET", "/monitoring/prometheus/metrics", headers=right).status == 200
    assert server.ask("GET", "/health").status == 200
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("host", "auth", "token", "message"),
    [
        ("0.0.0.0", "", "", "can be reached from other machines"),  # noqa: S104
        ("0.0.0.0", "token", "", "ENDCAP_TOKEN is not set"),  # noqa: S104
        ("127.0.0.1", "token", "  ", "ENDCAP_TOKEN is not set"),
        ("127.0.0.1", "basic", "", "expected token or none"),
        ("no.such.host.invalid", "none", "", "no address of this machine"),
        ("203.0.113.1", "none", "", "can't be listened on"),
    ],
)
def test_refuses_to_start_without_a_safe_door(
    release: Path, start_server: Any, host: str, auth: str, token: str, message: str
) -> None:
    server = start_server(release, host=host, auth=auth, environment={"ENDCAP_TOKEN": token})
    assert server.process.wait(20) == 2
    assert server.url.startswith("InputError: ")
    assert message in server.url


def test_any_address_on_purpose(release: Path, start_server: Any) -> None:
    server = start_server(release, host="0.0.0.0", auth="none")  # noqa: S104
    assert server.predict({"instances": [FULL]}).status == 200
    assert server.stop() == 0


def test_port_in_use_is_said(release: Path, start_server: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start_server(release, port=port)
        assert server.process.wait(20) == 2
        assert server.url.startswith(f"InputError: Port {port} of 127.0.0.1 is in use")


def test_changed_byte_is_refused_before_loading(release: Path, tmp_path: Path, start_server: Any) -> None:
    shutil.copytree(release, tmp_path / "changed")
    graph = tmp_path / "changed" / "query.onnx"
    raw = bytearray(graph.read_bytes())
    raw[100] ^= 1
    graph.write_bytes(raw)
    server = start_server(tmp_path / "changed")
    assert server.process.wait(20) == 2
    assert server.url.startswith("ArtifactError: ")
    assert "query.onnx" in server.url


def test_folder_that_is_no_release(tmp_path: Path, start_server: Any) -> None:
    server = start_server(tmp_path)
    assert server.process.wait(20) == 2
    assert "is no release" in server.url


def test_sigterm_answers_what_is_in_flight_and_refuses_the_rest(release: Path, start_server: Any) -> None:
    server = start_server(release)
    # Heavy enough to be in flight when the signal comes: all products for many customers.
    heavy = json.dumps({"instances": [FULL] * 160, "k": 3000}).encode()
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(server.predict(heavy)))
    # An open connection: the listener may be closed by the time the second request is sent.
    late = http.client.HTTPConnection(*server.address, timeout=10)
    late.connect()
    thread.start()
    while _queued(server) < 160 and not answers:
        time.sleep(0.001)
    server.process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    refused: tuple[int, bytes] = (200, b"")
    while refused[0] == 200 and time.monotonic() < started + 5:
        late.request("GET", "/health")
        response = late.getresponse()
        refused = (response.status, response.read())
    assert refused[0] == 503
    assert json.loads(refused[1])["status"] == "draining"
    late.request("POST", "/v1/models/recommender:predict", json.dumps({"instances": [FULL]}))
    response = late.getresponse()
    assert response.status == 503
    assert response.getheader("retry-after") == "1"
    assert "shutting down" in json.loads(response.read())["error"]
    late.close()
    thread.join()
    assert answers[0].status == 200
    assert len(answers[0].body["predictions"]) == 160
    assert server.process.wait(10) == 0
    assert time.monotonic() - started < 10


def _queued(server: Any) -> float:
    text = server.ask("GET", "/monitoring/prometheus/metrics").body.decode()
    return float(next(line for line in text.splitlines() if line.startswith("endcap_queued_instances ")).split()[1])


def test_idle_server_stops_at_once_on_interrupt(release: Path, start_server: Any) -> None:
    server = start_server(release)
    assert server.predict({"instances": [FULL]}).status == 200
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(5) == 0
    assert server.log.read_text(encoding="utf-8") == ""


def test_deadline_that_passes_is_504(release: Path, start_server: Any) -> None:
    server = start_server(release)
    heavy = json.dumps({"instances": [FULL] * 120, "k": 3000}).encode()
    threads = [threading.Thread(target=server.predict, args=(heavy,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    while _queued(server) < 240:
        time.sleep(0.001)
    answer = server.predict({"instances": [FULL]}, {"x-request-timeout-ms": "1"})
    assert answer.status == 504
    assert "deadline" in answer.error
    for thread in threads:
        thread.join()


HEAVY_LIBRARIES = (
    "torch",
    "ibis",
    "duckdb",
    "pandas",
    "django",
    "pydantic",
    "typer",
    "click.testing",
    "onnx",
    "pyarrow",
)


def test_serving_imports_nothing_heavy() -> None:
    code = "import sys, endcap.serving.server; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "onnxruntime" in loaded
    assert not set(HEAVY_LIBRARIES) & set(loaded)


def test_f1_versions_are_swapped_under_constant_load(release: Path, tmp_path: Path, start_server: Any) -> None:
    folder = tmp_path / "versions"
    folder.mkdir()
    shutil.copytree(release, folder / "1")
    server = start_server(folder)
    is_over = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        connection = http.client.HTTPConnection(*server.address, timeout=20)
        while not is_over.is_set():
            connection.request("POST", "/v1/models/recommender:predict", json.dumps({"instances": [FULL]}))
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in (2, 3):
        shutil.copytree(release, folder / f".{number}")
        (folder / f".{number}").rename(folder / str(number))
        _until(lambda wanted=str(number): server.ask("GET", "/health").body["version"] == wanted)
        states = {
            one["version"]: one["state"]
            for one in server.ask("GET", "/v1/models/recommender").body["model_version_status"]
        }
        assert "AVAILABLE" in states.values()
    _until(lambda: server.ask("POST", "/v1/models/recommender/versions/1:predict", {"instances": [FULL]}).status == 404)
    is_over.set()
    for thread in threads:
        thread.join()
    assert len(statuses) > 20
    assert set(statuses) == {200}
    assert server.ask("POST", "/v1/models/recommender/versions/3:predict", {"instances": [FULL]}).status == 200
    assert server.stop() == 0


def test_f7_a_server_that_is_loading_goes_when_it_is_told_to(release: Path, tmp_path: Path, start_server: Any) -> None:
    folder = tmp_path / "versions"
    folder.mkdir()
    shutil.copytree(release, folder / "1")
    server = start_server(folder)
    slow = folder / ".2"
    shutil.copytree(release, slow)
    with (slow / "large").open("wb") as file:
        file.truncate(2**36)  # no block of it is on the disk, and its digest takes minutes
    manifest = json.loads((slow / "manifest.json").read_text())
    manifest["files"]["large"] = {"sha256": "0" * 64, "num_bytes": 2**36}
    (slow / "manifest.json").write_text(json.dumps(manifest))
    slow.rename(folder / "2")
    status = "/v1/models/recommender"
    _until(lambda: server.ask("GET", status).body["model_version_status"][0]["state"] == "LOADING")
    assert server.predict({"instances": [FULL]}).status == 200
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 10


def test_f5_an_idle_connection_keeps_no_version(release: Path, tmp_path: Path, start_server: Any) -> None:
    folder = tmp_path / "versions"
    folder.mkdir()
    shutil.copytree(release, folder / "1")
    server = start_server(folder)
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    connection.request("POST", "/v1/models/recommender:predict", json.dumps({"instances": [FULL]}))
    assert connection.getresponse().read()
    maps = Path(f"/proc/{server.process.pid}/maps")
    assert f"{folder}/1/candidates/vectors.npy" in maps.read_text()
    shutil.copytree(release, folder / ".2")
    (folder / ".2").rename(folder / "2")
    _until(lambda: f"{folder}/1/" not in maps.read_text())
    assert f"{folder}/2/candidates/vectors.npy" in maps.read_text()
    connection.close()


def _until(is_so: Any, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def test_a_server_asks_for_as_many_open_files_as_it_may_have(release: Path) -> None:
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512)); from endcap.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", str(release), "--port", "0", "--grpc-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            next(line for line in process.stdout if "127.0.0.1" in line)
            limits = Path(f"/proc/{process.pid}/limits").read_text()
        finally:
            process.terminate()
            process.communicate(timeout=20)
    (soft, hard) = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
    assert (soft, hard) == ("512", "512")


def test_a_system_without_a_limit_of_open_files_is_asked_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def refuse(_which: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _which: (1024, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    _allow_many_connections()
    assert asked == [(2**20, resource.RLIM_INFINITY)]
