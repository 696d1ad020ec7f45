"""B6: the published document is true: what it allows and what it forbids is asked, and nothing fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# That a request is sound can't be said whole in a schema: columns of one length, products that the release has.
_CHECKS = ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]
# The document allows a deadline of a millisecond, which is kept by 504: no fault of the server's.
_CHECKS += ["--header", "x-request-timeout-ms: 60000"]


def fuzz(server: Any, folder: Path, *options: str) -> str:
    """Ask the server as its document says, and as it does not; what schemathesis printed."""
    command = [
        sys.executable,
        "-c",
        "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())",
        "run",
        f"{server.url}/openapi.json",
        "--no-color",
        *_CHECKS,
        *options,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONWARNINGS": ""}, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert "No issues found" in done.stdout or " passed" in done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def document(multitask_server: Any) -> dict[str, Any]:
    found: dict[str, Any] = multitask_server.ask("GET", "/openapi.json").body
    return found


def test_it_names_every_route_of_a_model(document: dict[str, Any]) -> None:
    base = "/v1/models/recommender"
    for below in ("", "/versions/{version}", "/labels/{label}"):
        assert set(document["paths"][f"{base}{below}:predict"]) == {"post"}
        assert set(document["paths"][f"{base}{below}"]) == {"get"}
        assert set(document["paths"][f"{base}{below}/metadata"]) == {"get"}
    for below in ("", "/versions/{version}"):
        assert set(document["paths"][f"/v2/models/recommender{below}/infer"]) == {"post"}
        assert {f"/v2/models/recommender{below}", f"/v2/models/recommender{below}/ready"} <= set(document["paths"])
    assert {"/v2", "/v2/health/live", "/v2/health/ready"} <= set(document["paths"])
    assert {"/health", "/monitoring/prometheus/metrics", "/openapi.json"} <= set(document["paths"])
    assert "security" not in document


def test_it_tells_of_the_features_as_the_release_takes_them(document: dict[str, Any]) -> None:
    forms = document["components"]["schemas"]["Request-recommender"]["anyOf"]
    rows = next(
        form["properties"]["instances"]["items"]
        for form in forms
        if "instances" in form["required"] and form["properties"]["k"] != {"type": "null"}
    )
    assert rows["required"] == ["user_id"]
    assert rows["additionalProperties"] is False
    assert rows["properties"]["k"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 3000}
    assert rows["properties"]["age"]["anyOf"][0]["type"] == "number"


def test_a_server_that_asks_for_tokens_says_so(release: Path, tmp_path: Path, start_server: Any) -> None:
    server = start_server(release, auth="token", environment={"ENDCAP_TOKEN": "correct-horse"})
    assert server.ask("GET", "/openapi.json").status == 401
    found = server.ask("GET", "/openapi.json", headers={"authorization": "Bearer correct-horse"}).body
    assert found["security"] == [{"token": []}]
    assert found["paths"]["/health"]["get"]["security"] == []
    # Every other route refuses those without a token, and with a wrong one.
    fuzz(server, tmp_path, "-H", "Authorization: Bearer correct-horse", "--phases", "fuzzing", "--max-examples", "2")


def test_b6_what_it_says_is_true(multitask_server: Any, tmp_path: Path) -> None:
    said = fuzz(multitask_server, tmp_path, "--phases", "fuzzing", "--max-examples", "12")
    found = re.search(r"(\d[\d,]*) generated", said)
    assert found is not None
    assert int(found[1].replace(",", "")) > 60
    assert multitask_server.ask("GET", "/health").status == 200


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_b6_ten_minutes_on_every_route(multitask_server: Any, tmp_path: Path) -> None:
    print(fuzz(multitask_server, tmp_path, "--phases", "coverage,fuzzing", "--max-time", "600")[-800:])
    assert multitask_server.ask("GET", "/health").status == 200
