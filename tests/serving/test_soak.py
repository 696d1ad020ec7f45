"""L3: traffic goes on while versions are swapped again and again: no request fails, and memory stays as it is."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_BODIES = [
    {"instances": [{"user_id": "ann"}]},
    {"instances": [{"user_id": "bob", "k": 3, "exclude": ["p1", "p2"]}, {"user_id": "nobody"}]},
    {"inputs": {"user_id": ["cyd"] * 20, "age": [30.5] * 20}, "k": 100},
    {"instances": [{"user_id": "cyd", "user_history": ["p7", "p8", "p7"], "only": [f"p{n}" for n in range(50)]}]},
]
# The first of these is asked in bursts at times: more at once than a batch takes.
_BURST = 24


@dataclass
class Soak:
    """A server of a folder of versions, asked without a pause, and in bursts, while its versions are swapped."""

    server: Any
    folder: Path
    pause_seconds: float
    num_asked: int = 0
    failures: list[str] = field(default_factory=list)
    memory_kib: list[int] = field(default_factory=list)
    """After each swap."""

    def run(self, num_swaps: int, seconds: float) -> None:
        """Swap the version so many times, evenly spread over the time."""
        is_over = threading.Event()
        clients = [threading.Thread(target=self._ask, args=(is_over,)) for _ in range(2)]
        for client in clients:
            client.start()
        try:
            self._until(lambda: self.num_asked > 400)  # what a load needs once is there
            started = time.monotonic()
            for number in range(2, num_swaps + 2):
                self._swap(number)
                time.sleep(max(started + seconds * (number - 1) / num_swaps - time.monotonic(), 0))
                self.memory_kib.append(self._memory_kib())
        finally:
            is_over.set()
            for client in clients:
                client.join()

    def _ask(self, is_over: threading.Event) -> None:
        connections = [http.client.HTTPConnection(*self.server.address, timeout=20) for _ in range(_BURST)]
        turn = 0
        while not is_over.is_set():
            turn += 1
            asking = connections if turn % (2 * len(_BODIES)) == 0 else connections[:1]
            body = json.dumps(_BODIES[turn % len(_BODIES)])
            for connection in asking:
                self._try(connection.request, connection, "POST", "/v1/models/recommender:predict", body)
            for connection in asking:
                self._try(self._read, connection, connection)
            self.num_asked += len(asking)
            time.sleep(self.pause_seconds)
        for connection in connections:
            connection.close()

    def _try(self, step: Any, connection: http.client.HTTPConnection, *arguments: Any) -> None:
        try:
            step(*arguments)
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(type(error).__name__)
            connection.close()

    def _read(self, connection: http.client.HTTPConnection) -> None:
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            self.failures.append(str(response.status))

    def _swap(self, number: int) -> None:
        aside = self.folder / f".{number}"
        shutil.copytree(self.folder / str(number - 1), aside)
        aside.rename(self.folder / str(number))
        self._until(lambda: self.server.ask("GET", "/health").body["version"] == str(number))
        self._until(lambda: self._state_of(number - 1) == "END")
        shutil.rmtree(self.folder / str(number - 1))

    def _state_of(self, number: int) -> str:
        answer = self.server.ask("GET", f"/v1/models/recommender/versions/{number}")
        return str(answer.body["model_version_status"][0]["state"])

    def _until(self, is_so: Any) -> None:
        end = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < end, "the version didn't come or go"
            time.sleep(0.05)

    def _memory_kib(self) -> int:
        rollup = Path(f"/proc/{self.server.process.pid}/smaps_rollup").read_text()
        found = re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)
        assert found is not None
        return int(found[1])


@pytest.fixture
def soak(release: Path, tmp_path: Path, start_server: Any) -> Soak:
    folder = tmp_path / "versions"
    folder.mkdir()
    shutil.copytree(release, folder / "1")
    return Soak(start_server(folder), folder, pause_seconds=0.002)


def test_l3_a_few_swaps_under_traffic(soak: Soak) -> None:
    soak.run(num_swaps=12, seconds=6)
    assert not soak.failures
    assert soak.num_asked > 200
    settled = soak.memory_kib[3:]
    assert max(settled[-4:]) < 1.03 * statistics.median(settled[:4]), soak.memory_kib


@pytest.mark.slow
@pytest.mark.timeout(4500)
def test_l3_an_hour_of_traffic_with_200_swaps(soak: Soak) -> None:
    soak.pause_seconds = 0.02
    soak.run(num_swaps=200, seconds=3600)
    early, late = soak.memory_kib[10:40], soak.memory_kib[-30:]
    print(f"{soak.num_asked:,} requests, {len(soak.failures)} failed")
    print(f"memory, MiB: {statistics.median(early) / 1024:.1f} early, {statistics.median(late) / 1024:.1f} late")
    assert not soak.failures
    assert statistics.median(late) < 1.03 * statistics.median(early), soak.memory_kib
