"""The data benchmark measures the same work on both sides, and notices when outputs differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.performance.data import assert_same, make_spine, run_job
from benchmarks.performance.data_jobs import features, sessionize
from endcap.ingest.synthetic import Plan, generate

NUM_EVENTS = 20_000


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A shop's folder, with all its rows in `events.parquet`, and its truth."""
    folder = tmp_path_factory.mktemp("bench") / "shop"
    truth = generate(folder, Plan(num_events=NUM_EVENTS, num_days=6))
    rows = pa.concat_tables(map(pq.read_table, sorted((folder / "events").iterdir())))
    rows = rows.set_column(1, "user_id", pc.coalesce(rows["user_id"], rows["guest_id"]))
    pq.write_table(rows, folder / "events.parquet")
    return folder, truth


@pytest.fixture(scope="module")
def sessions(shop: tuple[Path, dict[str, Any]]) -> Path:
    """Our output in parts of two or three days each."""
    folder = shop[0].parent / "ours"
    sessionize(shop[0] / "events.parquet", folder, memory_mb=200, at_once=8_000)
    return folder


def read(folder: Path) -> pa.Table:
    return pa.concat_tables(map(pq.read_table, sorted(folder.glob("*.parquet"))))


def write_peer(ours: pa.Table, path: Path) -> None:
    """What the peer writes: the same, with session ids as text."""
    text = pc.binary_join_element_wise(ours["user_id"], ours["start_us"].cast(pa.string()), "-")
    place = ours.column_names.index("session_id")
    pq.write_table(ours.set_column(place, "session_id", text), path)


def test_ours_finds_the_truth_in_the_order_of_time(shop: tuple[Path, dict[str, Any]], sessions: Path) -> None:
    found = read(sessions)
    assert len(list(sessions.iterdir())) > 1
    assert found.num_rows == shop[1]["num_events"]
    assert pc.count_distinct(found["session_id"]).as_py() == shop[1]["num_sessions_unmerged"]
    keys = list(zip(found["ts_us"].to_pylist(), found["event_id"].to_pylist(), strict=True))
    assert keys == sorted(keys)


def test_equal_outputs_pass_and_others_do_not(sessions: Path, tmp_path: Path) -> None:
    ours = read(sessions)
    write_peer(ours, tmp_path / "same.parquet")
    assert_same(sessions, tmp_path / "same.parquet")
    write_peer(ours.slice(1), tmp_path / "shorter.parquet")
    with pytest.raises(AssertionError, match="numbers of rows"):
        assert_same(sessions, tmp_path / "shorter.parquet")
    write_peer(pa.concat_tables([ours.slice(1), ours.slice(0, 1)]), tmp_path / "order.parquet")
    with pytest.raises(AssertionError, match="rows differ"):
        assert_same(sessions, tmp_path / "order.parquet")
    moved = ours.set_column(ours.column_names.index("start_us"), "start_us", pc.add(ours["start_us"], 1))
    write_peer(moved, tmp_path / "moved.parquet")
    with pytest.raises(AssertionError, match="rows differ"):
        assert_same(sessions, tmp_path / "moved.parquet")


def test_features_of_a_spine_are_computed_group_by_group(
    shop: tuple[Path, dict[str, Any]], sessions: Path, tmp_path: Path
) -> None:
    copies, questions = tmp_path / "parts", tmp_path / "questions"
    copies.mkdir()
    questions.mkdir()
    for part in sessions.iterdir():
        (copies / part.name).write_bytes(part.read_bytes())
    assert make_spine(copies, questions, 100) == 100
    (questions / "item_versions.parquet").write_bytes((shop[0] / "item_versions.parquet").read_bytes())
    seconds = features(questions, tmp_path / "out", memory_mb=500)
    assert list(seconds) == [
        path.stem for path in sorted((tmp_path / "out").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    ]
    assert pq.read_metadata(tmp_path / "out/user.parquet").num_rows == 100
    spine = pq.read_table(questions / "spine.parquet")
    assert spine["query_num"].to_pylist() == list(range(100))
    assert len(set(spine["event_time_us"].to_pylist())) > 90


def test_a_job_tells_its_seconds_and_its_own_peak(shop: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    block = bytearray(800 << 20)  # The parent's memory is not the child's.
    sample = run_job("sessionize", shop[0] / "events.parquet", tmp_path / "out", 500)
    assert 0 < sample.seconds < 60
    assert 50 < sample.peak_mib < len(block) >> 20
    assert len(list((tmp_path / "out").iterdir())) == 1
