"""As much of BigQuery's REST as reading a table takes: its description, and its rows page by page, with faults on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_FIELDS = {
    "requests": {
        "request_id": "STRING", "user_key": "STRING", "request_time": "TIMESTAMP", "release_digest": "STRING",
        "surface": "STRING", "item_ids": "STRING[]", "scores": "FLOAT[]", "positions": "INTEGER[]",
        "propensities": "FLOAT[]", "experiment": "STRING", "variant": "STRING", "debug": "STRING",
    },
    "feedback": {
        "request_id": "STRING", "item_id": "STRING", "event_type": "STRING", "event_time": "TIMESTAMP", "value": "NUMERIC",
    },
}  # fmt: skip


def _schema(name: str) -> list[dict[str, str]]:
    return [
        {"name": column, "type": kind.removesuffix("[]"), "mode": "REPEATED" if kind.endswith("[]") else "NULLABLE"}
        for column, kind in _FIELDS[name].items()
    ]


@dataclass
class FakeBigQuery:
    """Tables of dataset `recsys` by name, as rows of JSON; timestamps are microseconds since 1970."""

    url: str = ""
    tables: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    page_rows: int = 2
    faults: list[int] = field(default_factory=list)
    """Statuses that the next calls get instead of an answer."""
    calls: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and body of a GET."""
        self.calls.append(path)
        if self.faults:
            status = self.faults.pop(0)
            return status, _error(status, "backendError" if status >= 500 else "accessDenied")
        split = urlsplit(path)
        parts = split.path.removeprefix("/bigquery/v2").strip("/").split("/")
        project, dataset, name = parts[1], parts[3], parts[5]
        if dataset != "recsys" or name not in self.tables:
            return 404, _error(404, "notFound")
        reference = {"projectId": project, "datasetId": dataset, "tableId": name}
        if parts[6:] != ["data"]:
            return 200, {"tableReference": reference, "schema": {"fields": _schema(name)}, "type": "TABLE"}
        asked = parse_qs(split.query)
        columns = asked["selectedFields"][0].split(",")
        start = int(asked.get("pageToken", ["0"])[0])
        stop = start + min(self.page_rows, int(asked.get("maxResults", ["1000"])[0]))
        rows = self.tables[name]
        answered: dict[str, Any] = {
            "totalRows": str(len(rows)),
            "rows": [{"f": [{"v": _cell(row.get(column))} for column in columns]} for row in rows[start:stop]],
        }
        return 200, answered | ({"pageToken": str(stop)} if stop < len(rows) else {})


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return [{"v": _cell(one)} for one in value]
    return None if value is None else str(value)


def _error(status: int, reason: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": f"{reason} said", "errors": [{"reason": reason}]}}


@contextmanager
def serving(fake: FakeBigQuery) -> Iterator[FakeBigQuery]:
    """The fake on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = fake.answer(self.path)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
