"""An object store's server in, the same server with faults out: 503s, stalls, broken streams, answers that get lost.

It also holds uploads to the preconditions that an emulator passes over: GCS' ifGenerationMatch, S3's If-Match and
If-None-Match, one writer at a time.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

Kind = Literal[
    "503",  # refused before anything happened
    "503 after",  # done, and then said to have failed
    "lost",  # done, and the connection closed without an answer
    "unheard",  # the connection closed without anything done
    "cut",  # half of the answer, then the connection closed
    "stall",  # half of the answer, then silence
    "silence",  # no answer at all
    "drip",  # an answer byte by byte
    "damaged upload",  # one byte of the request altered
    "damaged answer",  # one byte of the answer altered
]
CHAOS: tuple[Kind, ...] = ("503", "503 after", "lost", "unheard", "cut")


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD path" has `pattern` in it, after as many that go well."""

    kind: Kind
    pattern: str
    times: int
    after: int


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class Rules:
    """What the proxy does, and what came by; shared by its threads."""

    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    injected: list[str] = field(default_factory=list)
    sessions: dict[str, str] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)
    _share: float = 0.0
    _random: random.Random = field(default_factory=random.Random)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, kind: Kind, pattern: str = "", times: int = 1, after: int = 0) -> None:
        """Let something happen to coming requests."""
        with self._lock:
            self.faults.append(Fault(kind, pattern, times, after))

    def chaos(self, share: float, seed: int = 0) -> None:
        """Let something happen to this share of all coming requests; 0 ends it."""
        with self._lock:
            self._share, self._random = share, random.Random(seed)  # noqa: S311

    def reset(self) -> None:
        """No more faults; what stalls goes on."""
        with self._lock:
            self.faults, self.seen, self.injected, self._share = [], [], [], 0.0
            self.released.set()
            self.released = threading.Event()

    def counts(self) -> dict[str, int]:
        """How many faults of each kind were injected."""
        with self._lock:
            return dict(sorted(Counter(text.partition(":")[0] for text in self.injected).items()))

    def next_fault(self, request: str) -> Kind | None:
        with self._lock:
            self.seen.append(request)
            for fault in self.faults:
                if fault.times <= 0 or not re.search(fault.pattern, request):
                    continue
                if fault.after > 0:
                    fault.after -= 1
                else:
                    fault.times -= 1
                    self.injected.append(f"{fault.kind}: {request}")
                    return fault.kind
            if self._random.random() < self._share:
                kind = self._random.choice(CHAOS)
                self.injected.append(f"{kind}: {request}")
                return kind
        return None


class FaultProxy:
    """A server on a free port of 127.0.0.1 before another one."""

    def __init__(self, host: str, port: int) -> None:
        self.rules = Rules()
        rules, one_writer = self.rules, threading.Lock()

        class Handler(_Handler):
            target = (host, port)

        Handler.rules, Handler.one_writer = rules, one_writer
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.rules.reset()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    target: tuple[str, int]
    rules: Rules
    one_writer: threading.Lock
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer's second packet waits for the first one's, 40 ms

    def log_message(self, *args: object) -> None:  # type: ignore[override]
        return

    def _handle(self) -> None:
        body = self._body()
        released = self.rules.released
        fault = self.rules.next_fault(f"{self.command} {unquote(self.path)}")
        if fault == "503":
            self._send(Answer(503, [("Content-Type", "text/plain")], b"try again"))
            return
        if fault == "unheard":
            self._hang_up()
            return
        if fault == "silence":
            released.wait(30)
            self._hang_up()
            return
        if fault == "damaged upload" and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        with self.one_writer:
            answer = self._refusal(body) or self._forward(self.command, self.path, body, list(self.headers.items()))
        self._remember_session(answer, body)
        if fault == "503 after":
            answer = Answer(503, [("Content-Type", "text/plain")], b"try again")
        if fault == "damaged answer" and answer.body:
            answer.body = bytes([answer.body[0] ^ 1]) + answer.body[1:]
        if fault == "lost":
            self._hang_up()
        elif fault in ("cut", "stall", "drip"):
            self._send_part(answer, fault, released)
        else:
            self._send(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _handle  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        held = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            held += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return held

    def _refusal(self, body: bytes) -> Answer | None:
        """412 where a precondition doesn't hold."""
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if (expected := query.get("ifGenerationMatch")) is not None:
            found = self._generation(parts.path, query, body)
            return None if found == expected else _refused(f"generation {found}, expected {expected}")
        wanted, unwanted = self.headers.get("If-Match"), self.headers.get("If-None-Match")
        if self.command in ("PUT", "POST") and (wanted or unwanted):
            signed = [(name, value) for name, value in self.headers.items() if name in ("Authorization", "X-Amz-Date")]
            answer = self._forward("HEAD", parts.path, b"", signed)
            tag = {name.lower(): value for name, value in answer.headers}.get("etag") if answer.status == 200 else None
            if (unwanted and tag) or (wanted and tag != wanted):
                return _refused(f"ETag {tag}")
        return None

    def _generation(self, path: str, query: dict[str, str], body: bytes) -> str:
        """The generation of the object that a request to GCS is about; 0 for none."""
        if "/upload/" in path:
            # A session's chunks say neither the name nor the condition: both were told when it began.
            name = query.get("name") or self.rules.sessions.get(query.get("upload_id", "")) or _name_in(body)
            path = f"{path.replace('/upload', '', 1)}/{quote(name, safe='')}"
        answer = self._forward("GET", path.replace("/download", "", 1), b"", [])
        return str(json.loads(answer.body)["generation"]) if answer.status == 200 else "0"

    def _remember_session(self, answer: Answer, body: bytes) -> None:
        place = {name.lower(): value for name, value in answer.headers}.get("location", "")
        if identity := parse_qs(urlsplit(place).query).get("upload_id"):
            self.rules.sessions[identity[0]] = _name_in(body)

    def _forward(self, command: str, path: str, body: bytes, headers: Sequence[tuple[str, str]]) -> Answer:
        connection = http.client.HTTPConnection(*self.target, timeout=30)
        try:
            kept = {
                name: value
                for name, value in headers
                if name.lower() not in ("transfer-encoding", "connection", "expect")
            }
            if body or command in ("PUT", "POST"):
                kept["Content-Length"] = str(len(body))
            connection.request(command, path, body=body or None, headers=kept)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def _send(self, answer: Answer, part: bytes | None = None) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in answer.headers}.get("content-length")
        self.send_header("Content-Length", str(len(answer.body)) if self.command != "HEAD" or not length else length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body if part is None else part)
            self.wfile.flush()

    def _send_part(self, answer: Answer, fault: Kind, released: threading.Event) -> None:
        self._send(answer, answer.body[: len(answer.body) // 2] if fault != "drip" else b"")
        if fault == "stall":
            released.wait(30)
        if fault == "drip":
            for byte in answer.body:
                if released.wait(0.05):
                    break
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
        self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True


def _name_in(body: bytes) -> str:
    """The object's name in the JSON of an upload to GCS."""
    found = re.search(rb'"name": ?("(?:[^"\\\\]|\\\\.)*")', body)
    return str(json.loads(found[1])) if found else ""


def _refused(text: str) -> Answer:
    body = json.dumps({"error": {"code": 412, "message": f"Precondition failed: {text}"}}).encode()
    return Answer(412, [("Content-Type", "application/json")], body)
