"""Questions in, files of their columns out, and back as tensors that lie on disk: training that doesn't fit in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from endcap.contracts.errors import ArtifactError
from endcap.training.data import Questions, Ragged
from endcap.workspace.atomic import publish_folder, write_json

MANIFEST: Final = "manifest.json"
_ROWS_AT_ONCE: Final = 1 << 20


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What lies in the folder: a file `NAME.npy` for each number, in the order of their kinds."""

    num_questions: int
    tensors: list[str]
    stranger: list[str]
    history: list[str] | None
    id_column: str | None


def store_questions(questions: Questions, folder: Path) -> None:
    """Write questions into `folder`, all or nothing."""
    with publish_folder(folder) as aside:
        tensors = _save_all(aside, "tensor", questions.tensors)
        stranger = _save_all(aside, "stranger", questions.stranger)
        history = None
        if questions.history is not None:
            history = list(questions.history)
            for number, ragged in enumerate(questions.history.values()):
                _save_ragged(aside, f"history{number}", ragged)
        _save_ragged(aside, "targets", questions.targets)
        _save(aside / "day.npy", questions.day)
        _save(aside / "bought_us.npy", questions.bought_us)
        write_json(aside / MANIFEST, _Stored(len(questions), tensors, stranger, history, questions.id_column))


def open_questions(folder: Path) -> Questions:
    """Questions whose columns are mapped from `folder`: pages come in as batches ask for them, and may go again.

    Raises ArtifactError when a file is missing or damaged.
    """
    try:
        stored = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Stored)
        history = None
        if stored.history is not None:
            history = {name: _open_ragged(folder, f"history{number}") for number, name in enumerate(stored.history)}
        found = Questions(
            tensors=_open_all(folder, "tensor", stored.tensors),
            stranger=_open_all(folder, "stranger", stored.stranger),
            history=history,
            targets=_open_ragged(folder, "targets"),
            day=_open(folder / "day.npy"),
            bought_us=_open(folder / "bought_us.npy"),
            id_column=stored.id_column,
        )
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise ArtifactError(
            f"The questions in {folder} can't be read: {error}. Delete the folder and run again."
        ) from error
    if len(found) != stored.num_questions:
        raise ArtifactError(
            f"{folder} holds {len(found):,} questions; expected {stored.num_questions:,}. Delete the folder and run again."
        )
    return found


def _save_all(folder: Path, kind: str, tensors: Mapping[str, Tensor]) -> list[str]:
    for number, tensor in enumerate(tensors.values()):
        _save(folder / f"{kind}{number}.npy", tensor.numpy())
    return list(tensors)


def _save_ragged(folder: Path, name: str, ragged: Ragged) -> None:
    _save(folder / f"{name}.offsets.npy", ragged.offsets)
    _save(folder / f"{name}.values.npy", ragged.values.numpy())


def _save(path: Path, values: npt.NDArray[Any]) -> None:
    target = np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=values.shape)
    for start in range(0, len(values), _ROWS_AT_ONCE):
        target[start : start + _ROWS_AT_ONCE] = values[start : start + _ROWS_AT_ONCE]
    target.flush()


def _open_all(folder: Path, kind: str, names: list[str]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(_open(folder / f"{kind}{number}.npy")) for number, name in enumerate(names)}


def _open_ragged(folder: Path, name: str) -> Ragged:
    return Ragged(_open(folder / f"{name}.offsets.npy"), torch.from_numpy(_open(folder / f"{name}.values.npy")))


def _open(path: Path) -> npt.NDArray[Any]:
    # Copy on write: tensors want memory that may be written to, and the file must stay as it is.
    found: npt.NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    return found
