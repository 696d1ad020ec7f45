"""A long-lived worker's reports in, `/healthz` and Prometheus's `/metrics` over HTTP out."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Reporter

STALLED_AFTER_S: Final = 3600.0
"""Without a sign of life for so long a worker counts as stalled."""

_SOCKET_TIMEOUT_S: Final = 10.0


class WorkerHealth:
    """A Reporter that passes everything on to another, and remembers enough of it to say how the work goes."""

    def __init__(
        self, report: Reporter, *, stalled_after_s: float = STALLED_AFTER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._report, self._stalled_after_s, self._clock = report, stalled_after_s, clock
        self._last, self._stage = clock(), ""
        self._registry = CollectorRegistry()
        self._metric = Gauge(
            "endcap_job_metric", "The newest value of each metric.", ["metric", "split"], registry=self._registry
        )
        self._epoch = Gauge("endcap_job_epoch", "The newest epoch that was measured.", registry=self._registry)
        self._done = Gauge("endcap_job_stage_done_ratio", "Share of a stage.", ["stage"], registry=self._registry)
        self._events = Counter("endcap_job_events", "What was reported.", registry=self._registry)
        silent = Gauge("endcap_job_silent_seconds", "Seconds since the last sign of life.", registry=self._registry)
        silent.set_function(self._silent_s)

    def event(self, event: str, **fields: object) -> None:
        """See `Reporter.event`."""
        self._heard()
        self._events.inc()
        self._report.event(event, **fields)

    def metric(self, step: int, metric: str, value: float) -> None:
        """See `Reporter.metric`."""
        self._heard()
        self._metric.labels(metric, "validation" if step else "test").set(value)
        if step:
            self._epoch.set(step)
        self._report.metric(step, metric, value)

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """See `Reporter.progress`."""
        self._heard()
        self._stage = stage
        self._done.labels(stage).set(done / total if total else 1.0)
        self._report.progress(stage, done, total, note)

    def health(self) -> tuple[int, dict[str, object]]:
        """The status that `/healthz` answers with, and what it says."""
        silent_s = self._silent_s()
        is_stalled = silent_s > self._stalled_after_s
        told: dict[str, object] = {
            "status": "stalled" if is_stalled else "ok",
            "stage": self._stage,
            "silent_seconds": round(silent_s, 1),
        }
        return (503 if is_stalled else 200), told

    def exposition(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def _heard(self) -> None:
        self._last = self._clock()

    def _silent_s(self) -> float:
        return self._clock() - self._last


@contextmanager
def listening(health: WorkerHealth, host: str, port: int) -> Iterator[int]:
    """Answer in a thread of its own while the block runs; yields the port. Port 0 takes any free one.

    Raises InputError when the address can't be had.
    """
    handler = _handler_of(health)
    try:
        server = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise InputError(
            f"--health-port {port} of {host} can't be had: {error}. Name a free port, or leave the option out."
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler_of(health: WorkerHealth) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _SOCKET_TIMEOUT_S
        server_version, sys_version = "endcap", ""

        def do_GET(self) -> None:
            if self.path == "/healthz":
                status, told = health.health()
                self._answer(status, "application/json", json.dumps(told).encode())
            elif self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, health.exposition())
            else:
                self._answer(404, "application/json", b'{"error": "expected /healthz or /metrics"}')

        do_HEAD = do_GET  # noqa: N815 - the library's name

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing: standard output and error are the job's."""

    return Handler
