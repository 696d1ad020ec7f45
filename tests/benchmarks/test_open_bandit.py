"""The off-policy benchmark on made-up logs of the dataset's shape."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.quality import open_bandit

NUM_ROWS, NUM_ITEMS, NUM_POSITIONS = 6000, 8, 3


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(4)
    rates = generator.uniform(0.02, 0.3, NUM_ITEMS)
    policy = rates / rates.sum()  # shows more of what is clicked more
    for name, chances in {"random_men": np.full(NUM_ITEMS, 1 / NUM_ITEMS), "bts_men": policy}.items():
        items = generator.choice(NUM_ITEMS, NUM_ROWS, p=chances)
        table = {
            "item_id": items,
            "position": generator.integers(1, NUM_POSITIONS + 1, NUM_ROWS),
            "click": (generator.random(NUM_ROWS) < rates[items]).astype(int),
            "propensity_score": chances[items],
        }
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    return tmp_path


def test_estimates_come_near_what_the_other_policy_earned(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["open_bandit", str(folder)])
    open_bandit.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("Thompson,", "uniform,"))]
    figures = {}
    for line in (line for line in lines if " rows" in line and "weights" not in line):
        work, system, *numbers = [part.strip() for part in line.split("  ") if part.strip()]
        figures[work, system] = [float(number) for number in numbers[1:4]]
    for work in ("Thompson, from the uniform log", "uniform, from the Thompson log"):
        own = figures[work, "its own clicks"][0]
        for system in ("IPS", "SNIPS", "SNIPS, bootstrap", "DR"):
            _, low, high = figures[work, system]
            assert low - 15 < own < high + 15, (work, system)
    gained = figures["Thompson, from the uniform log", "DR"][0] / figures["uniform, from the Thompson log", "DR"][0]
    assert gained > 1.1
    shares = open_bandit.shares(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]))
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3], [0, 1]])
