"""A training service, a log service and a bucket's description on 127.0.0.1, in the official clients' own messages."""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.cloud import aiplatform_v1 as api

SERVICE = "google.cloud.aiplatform.v1.JobService"
PREEMPTED = (3, "The replica workerpool0-0 exited with a non-zero status of 143. Termination reason: Error.")
BROKEN = (3, "The replica workerpool0-0 exited with a non-zero status of 1. Termination reason: Error.")

Step = str | tuple[int, str]
"""A state's name without JOB_STATE_, or the code and message of a failure."""


@dataclass
class FakeVertex:
    """What the services hold. `stories` says, a list a job, what each look at it finds; the last step stays."""

    stories: deque[list[Step]] = field(default_factory=deque)
    jobs: dict[str, api.CustomJob] = field(default_factory=dict)
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    buckets: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    faults: dict[str, deque[str]] = field(default_factory=dict)
    """Of a method, one a call: `before` or `after` it took effect the connection breaks; empty: none."""
    on_success: Callable[[api.CustomJob], None] = lambda job: None
    on_look: Callable[[api.CustomJob], None] = lambda job: None
    endpoint: str = ""
    http: str = ""
    log_status: int = 200

    def log(self, name: str, *lines: dict[str, Any] | str) -> None:
        """Have the containers of a job write lines."""
        entries = self.logs.setdefault(name.rpartition("/")[2], [])
        for line in lines:
            moment = datetime.now(UTC) + timedelta(microseconds=len(entries))
            payload = {"textPayload": line} if isinstance(line, str) else {"jsonPayload": line}
            entries.append({"insertId": f"i{len(entries)}", "timestamp": moment.isoformat(), **payload})

    def create(self, request: api.CreateCustomJobRequest) -> api.CustomJob:
        job = request.custom_job
        if (wrong := _wrong(job)) is not None:
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, wrong)
        job.name = f"{request.parent}/customJobs/{len(self.jobs) + 1}"
        job.state = api.JobState.JOB_STATE_QUEUED
        self.jobs[job.name] = job
        self._stories_of[job.name] = deque(self.stories.popleft() if self.stories else ["RUNNING"])
        return job

    def get(self, request: api.GetCustomJobRequest) -> api.CustomJob:
        job = self._found(request.name)
        self.on_look(job)
        story = self._stories_of[job.name]
        step = story.popleft() if len(story) > 1 else story[0]
        if isinstance(step, tuple):
            job.state = api.JobState.JOB_STATE_FAILED
            job.error = {"code": step[0], "message": step[1]}
        elif job.state != api.JobState.JOB_STATE_CANCELLED:
            job.state = api.JobState[f"JOB_STATE_{step}"]
            if step == "SUCCEEDED":
                self.on_success(job)
        return job

    def list(self, request: api.ListCustomJobsRequest) -> api.ListCustomJobsResponse:
        wanted = dict(re.findall(r'labels\.(\w+)="([^"]*)"', request.filter))
        found = [job for job in self.jobs.values() if wanted.items() <= dict(job.labels).items()]
        return api.ListCustomJobsResponse(custom_jobs=found)

    def cancel(self, request: api.CancelCustomJobRequest) -> None:
        self._found(request.name).state = api.JobState.JOB_STATE_CANCELLED
        self._stories_of[request.name] = deque(["CANCELLED"])

    def _found(self, name: str) -> api.CustomJob:
        if name not in self.jobs:
            raise RefusedError(grpc.StatusCode.NOT_FOUND, f"{name} is not found")
        return self.jobs[name]

    _stories_of: dict[str, deque[Step]] = field(default_factory=dict)


class RefusedError(Exception):
    """An error of the service, with its code."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def running(fake: FakeVertex) -> Iterator[FakeVertex]:
    """The services, listening on free ports for as long as the block lasts."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, _handlers(fake)),))
    fake.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _http_handler(fake))
    fake.http = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield fake
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
        server.stop(0).wait()


def _handlers(fake: FakeVertex) -> dict[str, grpc.RpcMethodHandler]:
    empty = lambda _: b""  # noqa: E731 - google.protobuf.Empty
    methods: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
        "CreateCustomJob": (fake.create, api.CreateCustomJobRequest, api.CustomJob.serialize),
        "GetCustomJob": (fake.get, api.GetCustomJobRequest, api.CustomJob.serialize),
        "ListCustomJobs": (fake.list, api.ListCustomJobsRequest, api.ListCustomJobsResponse.serialize),
        "CancelCustomJob": (fake.cancel, api.CancelCustomJobRequest, empty),
    }

    def handler(name: str, act: Callable[[Any], Any], kind: Any, serialize: Any) -> grpc.RpcMethodHandler:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            fake.calls.append(name)
            fault = fake.faults[name].popleft() if fake.faults.get(name) else ""
            if fault == "before":
                context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
            try:
                found = act(request)
            except RefusedError as error:
                context.abort(error.code, str(error))
            if fault == "after":
                context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
            return found

        return grpc.unary_unary_rpc_method_handler(answer, kind.deserialize, serialize)

    return {name: handler(name, *rest) for name, rest in methods.items()}


def _wrong(job: api.CustomJob) -> str | None:
    """What the real service would refuse of a job, as far as it is known."""
    pools = job.job_spec.worker_pool_specs
    if not job.display_name or not pools or pools[0].replica_count != 1:
        return "expected a display_name, and one replica in the first pool"
    for pool in pools:
        if not pool.container_spec.image_uri or not pool.machine_spec.machine_type:
            return "expected an image and a machine in each pool"
        if pool.disk_spec.boot_disk_size_gb < 100:
            return "expected a boot disk of at least 100 GB"
        if bool(pool.machine_spec.accelerator_type) != bool(pool.machine_spec.accelerator_count):
            return "expected an accelerator's type and count together"
        if any(not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", each.name) for each in pool.container_spec.env):
            return "expected environment variables with names of C"
    for key, value in job.labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) or not re.fullmatch(r"[a-z0-9_-]{0,63}", value):
            return f"expected a label in place of {key}={value}"
    return None


def _http_handler(fake: FakeVertex) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.calls.append("entries:list")
            (job,) = re.findall(r'resource\.labels\.job_id="([^"]*)"', asked["filter"])
            (since,) = re.findall(r'timestamp>="([^"]*)"', asked["filter"])
            entries = [
                each for each in fake.logs.get(job, ())
                if datetime.fromisoformat(each["timestamp"]) >= datetime.fromisoformat(since)
            ]  # fmt: skip
            first = int(asked.get("pageToken", 0))
            page = {"entries": entries[first : first + 2]}
            if first + 2 < len(entries):
                page["nextPageToken"] = str(first + 2)
            self._answer(fake.log_status, page if fake.log_status == 200 else {"error": "no"})

        def do_GET(self) -> None:
            name = self.path.partition("?")[0].removeprefix("/storage/v1/b/")
            fake.calls.append(f"bucket {name}")
            found = fake.buckets.get(name)
            self._answer(404 if found is None else 200, found or {"error": {"code": 404, "message": "no such bucket"}})

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            said = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
