"""The candidates folder: what is written can be searched, what can't be served isn't written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.release import CANDIDATE_IDS, CANDIDATE_VECTORS
from endcap.retrieval.build import write_candidates
from endcap.retrieval.exact import ExactIndex


@pytest.mark.parametrize("ids", [["b", "a", "日本"], [3, 1, -(2**62)]])
def test_written_candidates_can_be_searched(tmp_path: Path, ids: Any) -> None:
    # Fortran order on the way in, C order in the file.
    write_candidates(tmp_path, ids, np.asfortranarray(np.eye(3, dtype=np.float32)))
    index = ExactIndex.open(tmp_path / CANDIDATE_VECTORS, tmp_path / CANDIDATE_IDS)
    (hits,) = index.search(np.array([[1, 2, 3]], dtype=np.float32), [3])
    assert index.ids_of(hits.rows) == ids[::-1]


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["a", "a"], np.eye(2), "Product ids repeat"),
        (["a", 1], np.eye(2), "int, str"),
        ([True, False], np.eye(2), "bool"),
        (["a\0", "b"], np.eye(2), "NUL"),
        (["a", "b", "c"], np.eye(2), "one row per id"),
        (["a", "b"], np.array([[1.0, np.inf], [0.0, 0.0]]), "not finite"),
        ([], np.empty((0, 2)), "none at all"),
    ],
)
def test_refuses_what_cannot_be_served(tmp_path: Path, ids: Any, vectors: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_candidates(tmp_path, ids, vectors.astype(np.float32))
    assert not list(tmp_path.rglob("*.npy"))
