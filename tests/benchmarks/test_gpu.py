"""The benchmark of steps on a GPU says that there is none, and measures by floors where it is told to use what is there."""

import json

import pytest
import torch

from benchmarks.performance import gpu


def test_without_a_gpu_it_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main([])
    assert capsys.readouterr().out.startswith("No GPU is at hand")


@pytest.mark.slow
def test_a_step_takes_longer_than_its_floors(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "QUICK", (9_000, 300, 200))
    gpu.main(["--quick", "--device", "cpu", "--json", str(tmp_path / "gpu.json")])
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["work"] for row in rows] == ["two towers, float32", "two towers, bfloat16"]
    for row in rows:
        assert row["step_ms"] > row["bytes_floor_ms"] > 0
        assert row["flops_floor_ms"] > 0
        assert row["share_reached"] == pytest.approx(max(row["bytes_floor_ms"], row["flops_floor_ms"]) / row["step_ms"])
