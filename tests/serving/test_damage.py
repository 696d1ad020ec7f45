"""RELIABILITY B7: a damaged release is refused in words, or answers; it never ends the process."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.release import MANIFEST
from endcap.releases.bundle import open_release
from tests.serving.damaged import MARK, damage
from tests.serving.test_additions import write_release as write_small

MULTITASK_FILES = [
    "candidates/vectors.npy",
    "candidates/item_ids.npy",
    "features.parquet",
    "items.parquet",
    "query.onnx",
    "rank.onnx",
    MANIFEST,
]
MULTITASK_REQUEST = {"instances": [{"user_id": "ann", "user_history": ["p3"]}]}
SMALL_FILES = ["item.onnx", "items.parquet", "candidates/item_ids.npy"]
SMALL_REQUEST = {"instances": [{"user_id": 1, "tastes": [1.0, 0.5], "filter": {"price": {"min": 1}}}]}


def test_b7_bytes_flipped_in_any_file_are_found_when_it_is_opened(multitask_release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    shutil.copytree(multitask_release, folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    rng = np.random.default_rng(5)
    for name in [*names, *rng.choice(names, 40).tolist()]:
        raw = (folder / name).read_bytes()
        flipped = bytearray(raw)
        for place in rng.integers(0, len(raw), int(rng.integers(1, 5))).tolist():
            flipped[place] ^= int(rng.integers(1, 256))
        (folder / name).write_bytes(flipped)
        if name == MANIFEST:  # what it says may still be a manifest: of a release called otherwise, say
            with contextlib.suppress(ArtifactError, InputError):
                open_release(folder)
        elif bytes(flipped) != raw:
            with pytest.raises(ArtifactError, match="is not the file that was released"):
                open_release(folder)
        (folder / name).write_bytes(raw)
    open_release(folder)


def test_damage_damages() -> None:
    raw = bytes(range(256)) * 4
    damaged = [damage(raw, np.random.default_rng(seed)) for seed in range(50)]
    assert sum(one != raw for one in damaged) > 45
    assert len(set(damaged)) > 45
    assert min(map(len, damaged)) < len(raw)


def outcomes_of(release: Path, num_seeds: int, request: Any, items: Any, names: list[str]) -> list[list[str]]:
    """Name, seed and outcome of each, from a process of its own."""
    command = [sys.executable, "-m", "tests.serving.damaged", str(release), str(num_seeds)]
    command += [json.dumps(request), json.dumps(items), *names]
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600, cwd=root)
    lines = [line.split()[1:] for line in found.stdout.splitlines() if line.startswith(MARK)]
    last = lines[-1] if lines else "none"
    assert found.returncode == 0, f"ended by {found.returncode} at {last}: {found.stderr[-2000:]}"
    outcomes = [line for line in lines if len(line) > 2]
    assert [line[:2] for line in outcomes] == [[name, str(seed)] for name in names for seed in range(num_seeds)]
    return outcomes


def check(release: Path, num_seeds: int, request: Any, names: list[str]) -> None:
    items = [{"item_id": "new" if names is MULTITASK_FILES else 9, "price": 2.0}]
    lines = outcomes_of(release, num_seeds, request, items, names)
    said = {name: [line[2] for line in lines if line[0] == name] for name in names}
    assert {outcome for outcomes in said.values() for outcome in outcomes} <= {
        "refused", "answers", "answers-with-an-error",
    }  # fmt: skip
    for name, outcomes in said.items():
        # item.onnx is read when the first product is added.
        is_lazy = name == "item.onnx" and any(line[-1] == "takes-no-products" for line in lines if line[0] == name)
        assert "refused" in outcomes or is_lazy, name


def test_b7_damage_that_digests_do_not_show_is_refused_or_answers(multitask_release: Path, tmp_path: Path) -> None:
    check(multitask_release, 12, MULTITASK_REQUEST, MULTITASK_FILES)
    check(write_small(tmp_path / "r"), 12, SMALL_REQUEST, SMALL_FILES)


@pytest.mark.slow
def test_b7_at_length(multitask_release: Path, tmp_path: Path) -> None:
    check(multitask_release, 400, MULTITASK_REQUEST, MULTITASK_FILES)
    check(write_small(tmp_path / "r"), 400, SMALL_REQUEST, SMALL_FILES)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array(["a", "\ud800", "c"]), "what is no text"),
        (np.array(["a", "b", "c"], dtype=">U1"), "expected strings or int64"),
        (np.array(["", "", ""], dtype="<U0"), None),
        (np.array([10, 20, 30], dtype=np.int32), "expected strings or int64"),
    ],
)
def test_b7_ids_that_are_no_ids(array: Any, said: str | None) -> None:
    from endcap.retrieval.exact import ExactIndex

    if said is None:
        ExactIndex(np.eye(3, dtype=np.float32), array)
        return
    with pytest.raises(ArtifactError, match=said):
        ExactIndex(np.eye(3, dtype=np.float32), array)
