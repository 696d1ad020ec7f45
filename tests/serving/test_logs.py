"""What a server writes down: every request in the access log, every list in the log of requests, no raw id in either."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.job import REQUESTS_COLUMNS
from endcap.engines import duckdb
from endcap.ingest.sources.logs import Logs, shown
from endcap.serving.access_log import AccessLog
from endcap.serving.answers import Arrays
from endcap.serving.logs import open_logs
from endcap.serving.messages import Request
from endcap.serving.metrics import Metrics, ModelCounts
from endcap.serving.opening import load
from endcap.serving.request_log import RequestLog
from endcap.serving.requests import PredictRequest
from endcap.serving.settings import ServerSettings
from endcap.serving.spool import Spool
from endcap.serving.users import UserKeys
from endcap.serving.versions import Loaded
from endcap.workspace.layout import Workspace

KEY = bytes(range(32))
ANN, STRANGER = "ann", "stranger-4711@private.example"


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def until(is_reached: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not is_reached() and time.monotonic() < end:
        time.sleep(0.02)
    assert is_reached()


@pytest.fixture(scope="module")
def told(release: Path, tmp_path_factory: pytest.TempPathFactory, start_server: Any) -> tuple[Any, Path]:
    """What a server wrote down of some requests, after its end."""
    folder = tmp_path_factory.mktemp("logs")
    server = start_server(
        release, access_log=str(folder / "access.jsonl"), request_log_dir=str(folder / "shown"), user_key=KEY.hex()
    )
    predict = "/v1/models/recommender:predict"
    answers = {
        "one": server.predict(
            {"instances": [{"user_id": ANN}], "k": 3}, {"x-request-id": "r-1", "x-endcap-surface": "home"}
        ),
        "two": server.predict({"inputs": {"user_id": [ANN, STRANGER]}, "k": 2}),
        "packed": server.predict({"instances": [{"user_id": STRANGER}], "k": 2000}, {"accept-encoding": "gzip"}),
        "wrong": server.predict({"instances": [{"user_id": STRANGER, "age": "x"}]}, {"x-request-id": STRANGER}),
        "status": server.ask("GET", "/v1/models/recommender"),
        "missing": server.ask("GET", f"/users/{STRANGER}"),
        "label": server.ask("POST", f"/v1/models/recommender/labels/{STRANGER}:predict", b"{"),
        "head": server.ask("POST", predict, b"{", {"x-request-timeout-ms": STRANGER}),
    }
    assert server.stop() == 0
    return answers, folder


def test_each_answer_has_a_line_in_the_access_log(told: tuple[Any, Path]) -> None:
    answers, folder = told
    lines = lines_of(folder / "access.jsonl")
    keys = ("method", "route", "status", "model", "version", "num_instances")
    assert [tuple(line[key] for key in keys) for line in lines] == [
        ("POST", "predict", 200, "recommender", 1, 1),
        ("POST", "predict", 200, "recommender", 1, 2),
        ("POST", "predict", 200, "recommender", 1, 1),
        ("POST", "predict", 400, "recommender", 1, 0),
        ("GET", "status", 200, None, None, 0),
        ("GET", "unknown", 404, None, None, 0),
        ("POST", "predict", 404, None, None, 0),
        ("POST", "predict", 400, None, None, 0),
    ]
    assert lines[0]["request_id"] == "r-1"
    assert lines[0]["num_bytes"] == len(answers["one"].content)
    assert [line["num_bytes"] for line in lines] == [len(answer.content) for answer in answers.values()]
    assert len({line["request_id"] for line in lines}) == len(lines)
    assert lines[1]["request_id"] == answers["two"].headers["x-request-id"]
    assert lines[1]["user_keys"] == [user_key(ANN), user_key(STRANGER)]
    assert all(line["ms"] > 0 for line in lines[:3])


def user_key(user_id: str) -> str:
    return Workspace(Path(), KEY).user_key(user_id)


def test_s13_no_raw_id_is_written_down(told: tuple[Any, Path], tmp_path: Path) -> None:
    """S13: raw user ids appear in no log, metric or error."""
    answers, folder = told
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) >= 2
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "stranger" not in text
        assert '"ann"' not in text
    for name in ("wrong", "head"):
        assert "stranger" not in answers[name].error


def test_what_was_recommended_is_read_as_a_table_of_requests(told: tuple[Any, Path], tmp_path: Path) -> None:
    answers, folder = told
    (file,) = (folder / "shown").iterdir()
    assert file.name.startswith("requests-20")
    rows = lines_of(file)
    assert all(tuple(row) == REQUESTS_COLUMNS for row in rows)
    one, two, packed = (answers[name] for name in ("one", "two", "packed"))
    id_of_two = two.headers["x-request-id"]
    assert [row["request_id"] for row in rows] == [
        "r-1",
        f"{id_of_two}-0",
        f"{id_of_two}-1",
        packed.headers["x-request-id"],
    ]
    assert [row["user_key"] for row in rows] == [user_key(user) for user in (ANN, ANN, STRANGER, STRANGER)]
    assert [row["surface"] for row in rows] == ["home", None, None, None]
    assert rows[0]["item_ids"] == one.body["predictions"][0]["product_ids"]
    assert rows[0]["scores"] == one.body["predictions"][0]["scores"]
    assert [row["item_ids"] for row in rows[1:3]] == two.body["outputs"]["product_ids"]
    assert rows[3]["item_ids"] == json.loads(gzip.decompress(packed.content))["predictions"][0]["product_ids"]

    workspace = Workspace.init(tmp_path / "w")
    with duckdb.session(workspace) as connection:
        judged = Logs().judged_requests(connection, folder)
        assert judged is not None
        assert connection.to_pyarrow(judged.aggregate(bad=judged["reason"].count()))["bad"][0].as_py() == 0
        found = connection.to_pyarrow(shown(judged).order_by(["request_id", "position"])).to_pylist()
    mine = [row for row in found if row["request_id"] == "r-1"]
    assert [(row["item_id"], row["position"], row["propensity"]) for row in mine] == [
        (item_id, place, 1.0) for place, item_id in enumerate(one.body["predictions"][0]["product_ids"], 1)
    ]
    assert {row["release_digest"] for row in found} == {rows[0]["release_digest"]}
    assert Counter(row["user_key"] for row in found) == {user_key(ANN): 5, user_key(STRANGER): 2002}


class Stuck:
    """Writes when it is let."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.error: OSError | None = None

    def write(self, things: list[int], _is_last: bool) -> int:
        if self.error is not None:
            raise self.error
        self.written += things
        return 0


def test_a_log_that_is_full_drops_and_counts_and_never_waits(caplog: pytest.LogCaptureFixture) -> None:
    stuck = Stuck()
    spool = Spool("test log", stuck.write, 3)
    for number in range(10):
        spool.put(number)
    assert spool.num_dropped == 7
    spool.start()
    until(lambda: stuck.written == [0, 1, 2])
    stuck.error = OSError(28, "No space left on device")
    spool.put(10)
    until(lambda: spool.num_dropped == 8)
    spool.put(11)
    until(lambda: spool.num_dropped == 9)
    assert [record.getMessage() for record in caplog.records] == [
        "The test log can't be written, lines are dropped: No space left on device"
    ]
    stuck.error = None
    spool.put(12)
    spool.stop(5)
    assert stuck.written == [0, 1, 2, 12]


def answered(seconds: float = 0.0) -> Request:
    request = Request(b"GET", b"/v1/models/m", [])
    request.started = time.perf_counter() - seconds
    request.route = "status"
    return request


def test_an_access_log_that_is_moved_aside_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "access.jsonl"
    log = AccessLog(str(file), None)
    log.spool.start()
    log.note(answered(0.5), 200, 7)
    until(lambda: file.exists() and file.stat().st_size)
    file.rename(tmp_path / "old.jsonl")
    log.note(answered(), 404, 8)
    log.spool.stop(5)
    (old,), (new,) = lines_of(tmp_path / "old.jsonl"), lines_of(file)
    assert (old["status"], new["status"], new["num_bytes"]) == (200, 404, 8)
    assert 500 <= old["ms"] < 5000
    assert "user_keys" not in old


def test_a_sample_is_a_share(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "some.jsonl"), None, 0.25)
    none = AccessLog(str(tmp_path / "none.jsonl"), None, 0.0)
    for _ in range(2000):
        log.note(answered(), 200, 1)
        none.note(answered(), 200, 1)
    for one in (log, none):
        one.spool.start()
        one.spool.stop(5)
    assert 400 <= len(lines_of(tmp_path / "some.jsonl")) <= 600
    assert not (tmp_path / "none.jsonl").exists()


@pytest.fixture(scope="module")
def loaded(release: Path) -> Loaded:
    return load(release, ModelCounts())


def asked_of(loaded: Loaded, *user_ids: str) -> PredictRequest:
    body = json.dumps({"instances": [{"user_id": one} for one in user_ids]}).encode()
    return loaded.predictor.decoder.decode(body)


def test_files_of_requests_are_whole_and_written_in_turns(loaded: Loaded, tmp_path: Path) -> None:
    log = RequestLog(tmp_path, UserKeys(KEY), flush_seconds=0.3)
    log.start()
    asked = asked_of(loaded, "ann")
    body = b'{"predictions":[{"product_ids":["a"],"scores":[0.5]}]}'
    log.note("r1", "", loaded, asked, body)
    until(lambda: list(tmp_path.iterdir()))
    log.note("r2", "", loaded, asked, Arrays([["b", "c"]], [[0.25, 0.125]]))  # type: ignore[list-item]  # lists do too
    log.spool.stop(5)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    rows = [row for file in files for row in lines_of(file)]
    assert [(row["request_id"], row["item_ids"], row["positions"]) for row in rows] == [
        ("r1", ["a"], [1]),
        ("r2", ["b", "c"], [1, 2]),
    ]
    assert log.num_dropped == 0


def test_the_log_of_requests_takes_so_much_memory_and_no_more(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("endcap.serving.request_log.MAX_WAITING_BYTES", 1000)
    log = RequestLog(tmp_path, UserKeys(KEY))
    asked = asked_of(loaded, "ann")
    for _ in range(10):
        log.note("r", "", loaded, asked, bytes(400))
    assert log.num_dropped == 8


def test_rows_that_cannot_be_written_are_counted(loaded: Loaded, tmp_path: Path) -> None:
    """F24, of the log: a disk that is full costs lines, never an answer."""
    folder = tmp_path / "shown"
    log = RequestLog(folder, UserKeys(KEY))
    folder.rmdir()
    folder.write_bytes(b"")
    log.start()
    log.note(
        "r", "", loaded, asked_of(loaded, "ann", "bob"), b'{"outputs":{"product_ids":[["a"],["b"]],"scores":[[1],[2]]}}'
    )
    log.spool.stop(5)
    assert log.num_dropped == 2


def test_no_log_of_requests_without_a_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no key"):
        open_logs(ServerSettings((), request_log_dir=tmp_path), Metrics())
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="can't be written to"):
        open_logs(ServerSettings((), request_log_dir=file, user_key=KEY), Metrics())
    assert open_logs(ServerSettings(()), Metrics()) is None


def test_the_key_is_not_in_what_is_said_of_the_settings() -> None:
    settings = ServerSettings((), port=4711, user_key=b"sesame")
    assert "port=4711" in repr(settings)
    assert "sesame" not in repr(settings)


def test_what_was_dropped_is_a_metric(tmp_path: Path) -> None:
    metrics = Metrics()
    logs = open_logs(
        ServerSettings((), access_log=str(tmp_path / "a"), request_log_dir=tmp_path / "r", user_key=KEY), metrics
    )
    assert logs is not None
    assert logs.next_id() != logs.next_id()
    text = metrics.exposition().decode()
    assert 'endcap_log_lines_dropped_total{log="access"} 0.0' in text
    assert 'endcap_log_lines_dropped_total{log="requests"} 0.0' in text
