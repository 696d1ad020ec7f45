"""A release in, a server of it in a process of its own out, and predictions asked of it."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@contextmanager
def serving(release: Path) -> Iterator[str]:
    """Its address, on a free port."""
    command = [sys.executable, "-m", "endcap", "serve", str(release), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, process.stderr.read()
        yield line[line.index("http://") :].strip()
    finally:
        process.terminate()
        assert process.wait(15) == 0
        process.stdout.close()
        process.stderr.close()


def ask(url: str, **body: Any) -> list[dict[str, Any]]:
    """The predictions of one request."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.request("POST", "/v1/models/recommender:predict", json.dumps(body))
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, answer
        return answer["predictions"]
    finally:
        connection.close()
