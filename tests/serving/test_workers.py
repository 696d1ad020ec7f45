"""Several processes on one socket: all answer, one that dies is replaced, and all go when they are told to."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

FULL = {"instances": [{"user_id": "cyd", "city": "Oslo", "age": 40}], "k": 3}


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def until(is_so: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(release: Path, tmp_path_factory: pytest.TempPathFactory, start_server: Any) -> Any:
    folder = tmp_path_factory.mktemp("versions")
    shutil.copytree(release, folder / "1")
    return start_server(folder, num_workers=2)


def test_all_workers_answer_and_hold_the_vectors_in_memory_once(server: Any) -> None:
    workers = children_of(server.process.pid)
    assert len(workers) == 2
    answers = [server.predict(FULL) for _ in range(30)]
    assert {answer.status for answer in answers} == {200}
    assert len({str(answer.body) for answer in answers}) == 1
    for worker in workers:
        maps = Path(f"/proc/{worker}/maps").read_text()
        assert re.search(r"r--[sp] .*candidates/vectors\.npy", maps)


def predicted(server: Any) -> float:
    """How many predictions the processes have answered altogether, as any of them tells."""
    text = server.ask("GET", "/monitoring/prometheus/metrics").body.decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "endcap_requests_total" and sample.labels["route"] == "predict"
    )


def test_whoever_is_asked_tells_what_all_have_counted(server: Any) -> None:
    time.sleep(1.2)  # all have published what they counted before
    before = predicted(server)
    for _ in range(20):
        assert server.predict(FULL).status == 200
    until(lambda: [predicted(server) for _ in range(6)] == [before + 20] * 6)


def test_a_worker_that_dies_is_replaced_and_the_others_go_on(server: Any) -> None:
    before = set(children_of(server.process.pid))
    dying = min(before)
    counted = predicted(server)
    os.kill(dying, signal.SIGKILL)
    until(lambda: len(children_of(server.process.pid)) == 2 and dying not in children_of(server.process.pid))
    assert {server.predict(FULL).status for _ in range(10)} == {200}
    assert predicted(server) >= counted  # what the dead one had counted is not lost
    assert f"ended with {-signal.SIGKILL}" in server.log.read_text()


def test_f1_every_worker_takes_up_a_new_version(server: Any, release: Path, tmp_path: Path) -> None:
    folder = Path(re.search(r"(\S+)/1/candidates", maps_of(children_of(server.process.pid)[0])).group(1))  # type: ignore[union-attr]
    shutil.copytree(release, tmp_path / "2")
    shutil.move(tmp_path / "2", folder / ".2")
    (folder / ".2").rename(folder / "2")
    until(lambda: all("/2/candidates" in maps_of(worker) for worker in children_of(server.process.pid)))
    until(lambda: not any("/1/candidates" in maps_of(worker) for worker in children_of(server.process.pid)))
    assert {server.ask("GET", "/health").body["version"] for _ in range(10)} == {"2"}


def maps_of(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_f7_requests_in_flight_finish_and_all_are_gone(release: Path, start_server: Any) -> None:
    server = start_server(release, num_workers=2)
    workers = children_of(server.process.pid)
    is_over = threading.Event()
    failed: list[int] = []

    def ask() -> None:
        while not is_over.is_set():
            try:
                status = server.predict(FULL).status
            except OSError:  # the door is closed
                return
            if status not in (200, 503):
                failed.append(status)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    started = time.monotonic()
    assert server.stop() == 0
    is_over.set()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 10
    assert all(is_gone(worker) for worker in workers)
    assert not failed


def test_workers_do_not_outlive_a_killed_supervisor(release: Path, start_server: Any) -> None:
    server = start_server(release, num_workers=2)
    workers = children_of(server.process.pid)
    server.process.kill()
    assert server.process.wait(10) == -signal.SIGKILL
    until(lambda: all(is_gone(worker) for worker in workers))


def test_what_keeps_a_worker_from_starting_is_said(tmp_path: Path, release: Path, start_server: Any) -> None:
    shutil.copytree(release, tmp_path / "1")
    (tmp_path / "1" / "query.onnx").write_bytes(b"no graph")
    server = start_server(tmp_path / "1", num_workers=2)
    assert server.url.startswith("ArtifactError: ")
    assert "its digest differs" in server.url
    assert server.process.wait(20) == 2
    assert not subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, check=False).stdout
