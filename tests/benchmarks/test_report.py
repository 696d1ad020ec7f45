"""Benchmarks' JSON has the shape that others read, and the table shows the same figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.report import Report


def test_json_and_table_carry_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("Title", libraries=["numpy", "no-such-library"], peer_libraries={"flask": "3.1"})
    report.add("search", "endcap", "10x2", queries_per_second=1234.5, p99_ms=0.5)
    report.add("search", "peer", "10x2", queries_per_second=100.0, p99_ms=2.0)
    report.add("footprint", "endcap", "10x2", memory_mib=7)
    report.ratios["serving.p99"] = 4.0
    report.write_json(tmp_path / "out" / "report.json")
    written = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert list(written) == ["machine", "rows", "ratios"]
    assert {"cores", "memory_gib", "cpu", "libraries", "peer_libraries"} <= set(written["machine"])
    assert written["machine"]["libraries"]["no-such-library"] == "absent"
    assert written["rows"][1] == {
        "work": "search",
        "system": "peer",
        "size": "10x2",
        "queries_per_second": 100.0,
        "p99_ms": 2.0,
    }
    assert written["ratios"] == {"serving.p99": 4.0}
    report.print()
    lines = capsys.readouterr().out.splitlines()
    assert any("endcap" in line and line.rstrip().endswith("0.5000") and "1,234" in line for line in lines)
    assert any("serving.p99" in line and "4.00" in line for line in lines)
