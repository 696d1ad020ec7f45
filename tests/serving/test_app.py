"""What the application hands on with a request."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from endcap.serving.app import ServingApp
from endcap.serving.batching import Batcher
from endcap.serving.errors import RequestError
from endcap.serving.messages import Request
from endcap.serving.metrics import Metrics
from endcap.serving.opening import load_first
from endcap.serving.settings import ModelSettings, ServerSettings
from endcap.serving.sources import source_of
from endcap.serving.versions import Models, ServedModel

USERS = {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["ann"]}


class Noting(Batcher):
    """Notes on which connection a request came."""

    def submit(self, _work: Any, _request: Any, _timeout_seconds: float, connection: Any = None) -> asyncio.Future[Any]:
        self.connection = connection
        return asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/recommender:predict", {"instances": [{"user_id": "ann"}]}),
        ("/v1/models/recommender/versions/1:predict", {"instances": [{"user_id": "ann"}]}),
        ("/v2/models/recommender/infer", {"inputs": [USERS]}),
    ],
)
def test_a_request_is_one_of_its_connection(release: Path, path: str, body: dict[str, Any]) -> None:
    model = ModelSettings("recommender", source_of(release))
    served, metrics = ServedModel(model), Metrics()
    load_first(served, metrics)
    batcher = Noting(metrics)
    app = ServingApp(ServerSettings((model,)), Models([served]), batcher, metrics)
    request = Request(b"POST", path.encode(), [])
    request.body, request.peer = json.dumps(body).encode(), ("127.0.0.1", 4711)

    async def ask() -> Any:
        return app.answer(request)

    answer = asyncio.run(ask())
    assert asyncio.isfuture(answer)
    assert batcher.connection == ("127.0.0.1", 4711)
    # A refusal that is told later is one like those that are told at once.
    answer.set_exception(RequestError(429, "Too busy.", ((b"retry-after", b"1"),)))
    response = app.conclude(request, answer)
    assert (response.status, response.headers) == (429, ((b"retry-after", b"1"),))
