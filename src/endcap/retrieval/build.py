"""Product ids and vectors in, the `candidates/` folder of a release out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from endcap.contracts.errors import InputError
from endcap.contracts.release import CANDIDATE_IDS, CANDIDATE_VECTORS


def write_candidates(folder: Path, item_ids: Sequence[str] | Sequence[int], vectors: npt.NDArray[np.float32]) -> None:
    """Write `candidates/` below the release folder `folder`.

    `vectors` is `[num_items, dim]`, row i for `item_ids[i]`; ids are all strings or all integers. Raises InputError
    for ids that are mixed or repeat, and for vectors that are not finite or not one per id.
    """
    ids = _id_array(item_ids)
    if vectors.ndim != 2 or len(vectors) != len(ids) or 0 in vectors.shape:
        raise InputError(
            f"Found {len(ids):,} product ids and vectors of shape {vectors.shape}; expected one row per id."
        )
    if not np.isfinite(vectors).all():
        raise InputError("Product vectors hold values that are not finite: training diverged. Lower the learning rate.")
    if len(np.unique(ids)) != len(ids):
        raise InputError(
            f"Product ids repeat: {len(ids):,} ids, {len(np.unique(ids)):,} distinct. Keep one row per id."
        )
    (folder / CANDIDATE_VECTORS).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / CANDIDATE_VECTORS, np.ascontiguousarray(vectors, dtype=np.float32), allow_pickle=False)
    np.save(folder / CANDIDATE_IDS, ids, allow_pickle=False)


def _id_array(item_ids: Sequence[str] | Sequence[int]) -> npt.NDArray[np.str_] | npt.NDArray[np.int64]:
    kinds = {type(item_id) for item_id in item_ids}
    if kinds == {str}:
        # NumPy strings drop trailing NULs: such an id would come back as another.
        if any(str(item_id).endswith("\0") for item_id in item_ids):
            raise InputError("A product id ends with a NUL character. Strip it where the catalog is read.")
        return np.array(item_ids, dtype=np.str_)
    if kinds == {int}:
        return np.array(item_ids, dtype=np.int64)
    found = ", ".join(sorted(kind.__name__ for kind in kinds)) or "none at all"
    raise InputError(f"Product ids are of type {found}; expected all strings or all integers.")
