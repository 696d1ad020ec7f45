"""Made-up events through dedupe, sessions and features, by Endcap and by a peer in turn: seconds, memory, ratios out."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.report import Report
from endcap.contracts import columns as c
from endcap.contracts.events import EVENTS_TABLE
from endcap.ingest.synthetic import Plan, generate, parse_count

ROOT = Path(__file__).resolve().parents[2]
PEER = "polars"
INVOICES = ROOT / "examples" / "online_retail" / "online_retail.parquet"
LIMITED_MB = 2_000
SPINE_SHARE = 10
GROWTH = 10
SEED = 7


@dataclass(frozen=True)
class Sample:
    """One run of a job in a process of its own."""

    seconds: float
    peak_mib: float
    result: Any = None


@dataclass
class Bench:
    """Where things lie and what was measured."""

    folder: Path
    peer_python: Path
    rounds: int
    memory_mb: int
    report: Report
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def middle(self, name: str) -> float:
        """Median seconds of a job."""
        return median(sample.seconds for sample in self.samples[name])

    def peak(self, name: str) -> float:
        """The largest resident size that a job came to."""
        return max(sample.peak_mib for sample in self.samples[name])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark as told on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance.data", description=__doc__)
    parser.add_argument("--rows", default="20M", help="distinct events, such as 500k or 20M")
    parser.add_argument("--json", type=Path, help="also write machine, rows and ratios here")
    parser.add_argument("--quick", action="store_true", help="a rough answer from 200k events, each job once")
    options = parser.parse_args(arguments)
    num_events = parse_count("200k" if options.quick else options.rows)
    peer_python = ROOT / ".venv-peers" / PEER / "bin" / "python"
    if not peer_python.exists():
        parser.error(f"the peer's environment {peer_python.parents[1]} is missing; make it: make bench-peers")
    report = Report(
        title=f"Data: {num_events:,} made-up events in 30 days, beside Polars",
        libraries=["duckdb", "ibis-framework", "pyarrow", "numpy", "deltalake"],
        peer_libraries={PEER: _peer_version(peer_python)},
    )
    machine_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    with tempfile.TemporaryDirectory(prefix="endcap-bench-") as folder:
        bench = Bench(Path(folder), peer_python, 1 if options.quick else 3, machine_mb // 2, report)
        run(bench, num_events)
    report.print()
    if options.json is not None:
        report.write_json(options.json)


def run(bench: Bench, num_events: int) -> None:
    """Measure everything and fill the report."""
    events, small = _make_events(bench, num_events), _make_events(bench, num_events // GROWTH)
    _compare_sessions(bench, events, num_events)
    _measure_growth(bench, events, small, num_events)
    _measure_features(bench, events, num_events)
    _measure_ingest(bench)


def _make_events(bench: Bench, num_events: int) -> Path:
    """One file of events in the order of arrival, repeats included, every user named."""
    _say(f"making up {num_events:,} events")
    folder = bench.folder / f"shop_{num_events}"
    started = time.perf_counter()
    generate(folder, Plan(num_events=num_events, seed=SEED))
    seconds = time.perf_counter() - started
    bench.report.add(
        "synth", "endcap", _size(num_events), seconds=seconds, seconds_per_million=1e6 * seconds / num_events
    )
    target = folder / "events.parquet"
    writer = None
    for path in sorted((folder / "events").iterdir()):
        rows = pq.read_table(path)
        known = pc.coalesce(rows[c.USER_ID], rows[c.GUEST_ID])
        rows = rows.set_column(rows.column_names.index(c.USER_ID), c.USER_ID, known)
        writer = writer or pq.ParquetWriter(target, rows.schema, compression="snappy")
        writer.write_table(rows)
        path.unlink()
    assert writer is not None
    writer.close()
    return target


def _compare_sessions(bench: Bench, events: Path, num_events: int) -> None:
    names = {"endcap": bench.memory_mb, "endcap, memory_limit 2GB": LIMITED_MB, PEER: 0}
    for number in range(bench.rounds):
        for name, memory_mb in names.items():
            _say(f"dedupe and sessionize, {name}, {number + 1} of {bench.rounds}")
            _remove_output(bench.folder / name)
            _sessionize(bench, name, events, memory_mb)
            if number == 0 and name == PEER:
                for ours in (other for other in names if other != PEER):
                    assert_same(bench.folder / ours, bench.folder / PEER)
    for name in names:
        bench.report.add(
            "dedupe and sessionize",
            name,
            _size(num_events),
            seconds=bench.middle(name),
            million_events_per_second=num_events / bench.middle(name) / 1e6,
            peak_mib=bench.peak(name),
        )
    peer_seconds = bench.middle(PEER)
    bench.report.ratios["data.sessionize_vs_polars"] = round(peer_seconds / bench.middle("endcap"), 3)
    limited = bench.middle("endcap, memory_limit 2GB")
    bench.report.ratios["data.sessionize_2gb_vs_polars"] = round(peer_seconds / limited, 3)
    for name in names:
        _remove_output(bench.folder / name)


def _sessionize(bench: Bench, name: str, events: Path, memory_mb: int) -> None:
    target = bench.folder / name
    if name == PEER:
        script = ROOT / "benchmarks" / "peers" / PEER / "sessionize.py"
        sample = run_child([str(bench.peer_python), str(script), str(events), str(target)])
    else:
        sample = run_job("sessionize", events, target, memory_mb)
    bench.samples.setdefault(name, []).append(sample)


def assert_same(ours: Path, theirs: Path) -> None:
    """Compare the outputs row by row, in their order: every column, and our session ids as digests of theirs.

    Raises AssertionError when a row differs or is missing.
    """
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        mine = connection.read_parquet(str(ours / "*.parquet"))
        other = connection.read_parquet(str(theirs))
        assert mine.count("*").fetchall() == other.count("*").fetchall(), "the numbers of rows differ"
        columns = [name for name in mine.columns if name != c.SESSION_ID]
        assert set(columns) | {c.SESSION_ID} == set(other.columns), "the columns differ"
        differs = [f'm."{name}" IS DISTINCT FROM o."{name}"' for name in columns]
        differs.append("m.session_id <> md5(o.user_id || chr(31) || o.start_us::VARCHAR)")
        differs.append("o.session_id <> o.user_id || '-' || o.start_us::VARCHAR")
        query = f"SELECT count(*) FROM mine m POSITIONAL JOIN other o WHERE {' OR '.join(differs)}"  # noqa: S608
        (num_different,) = connection.execute(query).fetchall()[0]
    assert num_different == 0, f"{num_different} rows differ"


def _measure_growth(bench: Bench, events: Path, small: Path, num_events: int) -> None:
    for number in range(bench.rounds):
        _say(f"growth, {number + 1} of {bench.rounds}")
        for name, source in (("small", small), ("large", events)):
            target = bench.folder / "grown"
            bench.samples.setdefault(name, []).append(run_job("sessionize", source, target, bench.memory_mb))
            _remove_output(target)
    sizes = {"small": num_events // GROWTH, "large": num_events}
    per_event = {name: 1e6 * bench.middle(name) / size for name, size in sizes.items()}
    for name, size in sizes.items():
        bench.report.add(
            "growth: dedupe and sessionize", "endcap", _size(size), seconds_per_million=per_event[name], peak_mib=bench.peak(name)
        )  # fmt: skip
    bench.report.ratios["data.growth_2m_20m"] = round(per_event["small"] / per_event["large"], 3)


def _measure_features(bench: Bench, events: Path, num_events: int) -> None:
    """The default features of a tenth of the events, asked at the moment of each."""
    folder, target = bench.folder / "questions", bench.folder / "features"
    folder.mkdir()
    run_job("sessionize", events, bench.folder / "sessions", bench.memory_mb)
    num_rows = make_spine(bench.folder / "sessions", folder, max(num_events // SPINE_SHARE, 1))
    (events.parent / "item_versions.parquet").rename(folder / "item_versions.parquet")
    _say(f"default features of {num_rows:,} rows")
    sample = run_job("features", folder, target, bench.memory_mb)
    for name, seconds in sample.result.items():
        bench.report.add("features", f"endcap, {name}", f"{num_rows:,} rows", seconds=seconds)
    bench.report.add("features", "endcap, all", f"{num_rows:,} rows", seconds=sample.seconds)
    bench.report.add("features, memory", "endcap", f"{num_rows:,} rows", peak_mib=sample.peak_mib)


def make_spine(sessions: Path, folder: Path, num_rows: int) -> int:
    """Write `spine.parquet`, events spread evenly over those that name a product, and all events beside it."""
    parts = sorted(sessions.glob("*.parquet"))
    columns = [name for name in EVENTS_TABLE.schema.names if name != c.EVENT_DATE]
    with pq.ParquetWriter(
        folder / "events.parquet", pa.schema([pq.read_schema(parts[0]).field(n) for n in columns])
    ) as writer:
        for part in parts:
            for batch in pq.ParquetFile(part).iter_batches(columns=columns):
                writer.write_batch(batch.select(columns))
            part.unlink()
    named = pq.read_table(folder / "events.parquet", columns=[c.USER_ID, c.ITEM_ID, c.TS_US])
    named = named.filter(pc.is_valid(named[c.ITEM_ID]))
    num_rows = min(num_rows, named.num_rows)
    places = pa.array([row * named.num_rows // num_rows for row in range(num_rows)])
    spine = named.take(places).rename_columns([c.USER_ID, c.ITEM_ID, "event_time_us"])
    pq.write_table(spine.add_column(0, "query_num", pa.array(range(num_rows), pa.int64())), folder / "spine.parquet")
    return num_rows


def _measure_ingest(bench: Bench) -> None:
    _say("ingest of online_retail")
    sample = run_job("ingest", INVOICES, bench.folder / "workspace", 1_024)
    figures = {**sample.result, "seconds": sample.seconds, "peak_mib": sample.peak_mib}
    bench.report.add("ingest", "endcap", "online_retail", **figures)


def run_job(job: str, source: Path, target: Path, memory_mb: int) -> Sample:
    """Run one of `data_jobs` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.performance.data_jobs", job, str(source), str(target)]
    return run_child([*command, "--memory-mb", str(memory_mb)])


def run_child(command: Sequence[str]) -> Sample:
    """Run a command that prints what it took (`seconds` without imports, `peak_mib`, `result`) as JSON in its last line."""
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Sample(**json.loads(output.splitlines()[-1]))


def _remove_output(path: Path) -> None:
    for part in path.glob("*") if path.is_dir() else ():
        part.unlink()
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _size(num_events: int) -> str:
    return f"{num_events:,} events"


def _peer_version(python: Path) -> str:
    code = f"import importlib.metadata as m; print(m.version({PEER!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _say(message: str) -> None:
    print(f"… {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
