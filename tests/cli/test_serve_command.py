"""What `endcap serve` understands, and a server as Vertex AI and TensorFlow's entry script start it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from endcap.cli.serve_command import _labels, _policy
from endcap.contracts.errors import InputError
from endcap.serving.settings import All, Latest, Specific
from tests.serving.conftest import write_release

FULL = {"user_id": "cyd", "city": "Oslo", "age": 40}


def test_policies_and_labels() -> None:
    assert (_policy("latest"), _policy("latest:3"), _policy("all")) == (Latest(), Latest(3), All())
    assert (_policy("3"), _policy("3,4")) == (Specific((3,)), Specific((3, 4)))
    for wrong in ("newest", "latest:0", "latest:x", "3,", "-1"):
        with pytest.raises(InputError, match="expected latest, latest:N, all, or numbers"):
            _policy(wrong)
    assert _labels(["stable=3", "canary=4"]) == {"stable": 3, "canary": 4}
    for wrong in ("stable", "=3", "stable=three"):
        with pytest.raises(InputError, match="expected LABEL=VERSION"):
            _labels([wrong])


@contextmanager
def serving(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """`endcap serve`, once it has said that it answers, or has ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "endcap", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=15)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def asked(port: int, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=20) as response:
        return json.load(response)


def test_as_vertex_ai_starts_it(tmp_path: Path) -> None:
    release, port = write_release(tmp_path / "model"), free_port()
    environment = {
        "AIP_HTTP_PORT": str(port),
        "AIP_HEALTH_ROUTE": "/v1/endpoints/1/health",
        "AIP_PREDICT_ROUTE": "/v1/endpoints/1:predict",
        "AIP_STORAGE_URI": str(release),
    }
    with serving(environment=environment) as process:
        assert process.stderr is not None
        assert "0.0.0.0 can be reached from other machines" in process.stderr.read()
        assert process.wait(20) == 2
    with serving(environment={**environment, "ENDCAP_AUTH": "none"}) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"Serving {release} as recommender at ")
        assert asked(port, "/v1/endpoints/1/health")["status"] == "ready"
        body = {"instances": [FULL], "parameters": {"k": 2, "exclude": ["p1"]}}
        found = asked(port, "/v1/endpoints/1:predict", body)
        assert found == asked(port, "/v1/models/recommender:predict", {"instances": [FULL], "k": 2, "exclude": ["p1"]})
        assert len(found["predictions"][0]["product_ids"]) == 2
        with pytest.raises(urllib.error.HTTPError) as raised:
            asked(port, "/v1/endpoints/1:predict", {**body, "k": 3})
        assert "k is there twice" in json.load(raised.value)["error"]
        raised.value.close()


def test_as_tensorflow_servings_entry_script_starts_it(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    write_release(tmp_path / "shop" / "4")
    shutil.copytree(tmp_path / "shop" / "4", tmp_path / "shop" / "5")
    port = free_port()
    flags = [f"--rest_api_port={port}", "--model_name=shop", f"--model_base_path={tmp_path / 'shop'}"]
    with serving(*flags, "--enable_batching=true", "--tensorflow_session_parallelism=2") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"Serving {tmp_path / 'shop'} as shop at ")
        assert asked(port, "/v1/models/shop")["model_version_status"][0]["version"] == "5"
        assert len(asked(port, "/v1/models/shop:predict", {"instances": [FULL]})["predictions"]) == 1
        process.terminate()
        assert (
            "Passed over, for there is nothing here that it could tell: --tensorflow_session_parallelism"
            in (process.communicate(timeout=15)[1])
        )


def test_several_models_versions_and_labels(tmp_path: Path) -> None:
    for name in ("shoes", "bags"):
        (tmp_path / name).mkdir()
        write_release(tmp_path / name / "1")
    shutil.copytree(tmp_path / "shoes" / "1", tmp_path / "shoes" / "2")
    port = free_port()
    flags = ["--model", f"bags={tmp_path / 'bags'}", "--model-name", "shoes", "--versions", "2", "--label", "old=1"]
    with serving(str(tmp_path / "shoes"), *flags, "--port", str(port)) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Serving shoes, bags at ")
        for path in ("shoes:predict", "shoes/labels/old:predict", "shoes/versions/1:predict", "bags:predict"):
            assert len(asked(port, f"/v1/models/{path}", {"instances": [FULL], "k": 1})["predictions"]) == 1
        assert asked(port, "/v1/models/shoes/metadata")["model_spec"]["version"] == "2"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            asked(port, "/v1/models/bags/labels/old:predict", {"instances": [FULL]})
    for wrong, message in (
        (["--model", "shoes"], "expected NAME=PLACE"),
        ([str(tmp_path / "shoes"), "--model", f"recommender={tmp_path / 'bags'}"], "Two models of one name"),
        ([], "Nothing to serve"),
    ):
        with serving(*wrong) as process:
            assert message in process.communicate(timeout=20)[1]
