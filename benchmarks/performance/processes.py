"""A command in, a running server with its memory and processor time out: read from /proc for the whole process tree."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PREDICT_ROUTE = "/v1/models/recommender:predict"

_TICKS = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 120.0
_STOP_SECONDS = 15.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServerProcess:
    """A server started by a command; `url` is its predict route."""

    def __init__(
        self, name: str, command: Sequence[str], port: int, environment: Mapping[str, str], log: Path, folder: Path
    ) -> None:
        """Start it, without waiting."""
        self.name = name
        self.port = port
        self.url = f"http://127.0.0.1:{port}{PREDICT_ROUTE}"
        self._log = log
        self.started_at = time.perf_counter()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                cwd=folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_for_answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The first answer to `body`, asked for every few milliseconds."""
        while time.perf_counter() < self.started_at + _START_SECONDS:
            if self._process.poll() is not None:
                log = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} ended with {self._process.returncode}:\n{log}")
            # Not listening yet, or not answering yet.
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self.ask(body)
            time.sleep(0.005)
        raise RuntimeError(f"{self.name} did not answer within {_START_SECONDS:.0f} s; see {self._log}.")

    def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer to one predict request. Raises OSError or HTTPException when there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", PREDICT_ROUTE, json.dumps(body).encode(), {"content-type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise http.client.HTTPException(f"{self.name} answered {response.status}: {content[:500]!r}")
        answer: dict[str, Any] = json.loads(content)
        return answer

    def stop(self) -> None:
        """End it and its children."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def memory_mib(self) -> float:
        """Proportional set size of the process tree: pages shared inside it count once."""
        return sum(_pss_kib(pid) for pid in self._tree()) / 1024

    def cpu_seconds(self) -> float:
        """Processor time that the process tree has used."""
        return sum(_cpu_ticks(pid) for pid in self._tree()) / _TICKS

    def _tree(self) -> list[int]:
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                stat = _read(entry / "stat")
                if stat:
                    parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        tree = [self._process.pid]
        for pid in tree:
            tree += [child for child, parent in parents.items() if parent == pid]
        return tree


def _read(path: Path) -> str:
    # A process may end between being listed and being read.
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _pss_kib(pid: int) -> int:
    for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _cpu_ticks(pid: int) -> int:
    stat = _read(Path(f"/proc/{pid}/stat"))
    if not stat:
        return 0
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
