"""Questions and catalogs in, files of their columns out, and back as tensors that lie on disk: training that doesn't fit in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from endcap.contracts.errors import ArtifactError
from endcap.evaluation.metrics import RaggedSets
from endcap.features.fitted import FittedFeatures
from endcap.training.data import Catalog, CatalogColumns, Questions, Ragged
from endcap.workspace.atomic import publish_folder, write_json

MANIFEST: Final = "manifest.json"
_ROWS_AT_ONCE: Final = 1 << 20
_OFFSETS: Final = ".offsets"


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What lies in the folder: a file `NAME.npy` for each number, in the order of their kinds."""

    num_questions: int
    tensors: list[str]
    stranger: list[str]
    history: list[str] | None
    id_column: str | None
    has_weights: bool = False


class _StoredCatalog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What lies in a catalog's folder: a file `KINDn.npy` for each column, and `days.npy`."""

    num_items: int
    still: list[str]
    moving: list[str]


def store_questions(questions: Questions, folder: Path) -> None:
    """Write questions into `folder`, all or nothing."""
    store_parts([questions], folder)


def store_parts(parts: Iterable[Questions], folder: Path) -> None:
    """Write questions that come part by part into `folder`, all or nothing; only one part is in memory.

    Every part but an only one has two questions or more, so that what is said once is told from what is said of each.
    """
    with publish_folder(folder) as aside:
        columns: dict[str, _Growing] = {}
        stored: _Stored | None = None
        for part in parts:
            before = stored
            for name, values in _columns_of(part).items():
                if name not in columns:
                    columns[name] = _Growing(aside / f"{name}.npy")
                elif name.startswith("stranger") and len(values) == 1:
                    continue  # the same in every part
                elif name.endswith(_OFFSETS):
                    values = values[1:] + columns[name].last
                columns[name].add(values)
            stored = _described(part, before.num_questions if before else 0)
        for column in columns.values():
            column.close()
        if stored is None:
            raise ValueError("at least one part of questions is needed, an empty one where there are none")
        write_json(aside / MANIFEST, stored)


def open_questions(folder: Path) -> Questions:
    """Questions whose columns are mapped from `folder`: pages come in as batches ask for them, and may go again.

    Raises ArtifactError when a file is missing or damaged.
    """
    with _told(folder):
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
            weight=_open(folder / "weight.npy") if stored.has_weights else None,
        )
    if len(found) != stored.num_questions:
        raise ArtifactError(
            f"{folder} holds {len(found):,} questions; expected {stored.num_questions:,}. Delete the folder and run again."
        )
    return found


def store_catalog(catalog: Catalog, folder: Path) -> None:
    """Write the product columns of a catalog into `folder`, all or nothing."""
    columns = catalog.columns
    with publish_folder(folder) as aside:
        for kind, tensors in (("still", columns.still), ("moving", columns.moving)):
            for number, tensor in enumerate(tensors.values()):
                _save(aside / f"{kind}{number}.npy", tensor.numpy())
        _save(aside / "days.npy", columns.days)
        write_json(aside / MANIFEST, _StoredCatalog(catalog.num_items, list(columns.still), list(columns.moving)))


def open_catalog(fitted: FittedFeatures, folder: Path) -> Catalog:
    """The catalog whose columns are mapped from `folder`, by the transforms that it was made with.

    Raises ArtifactError when a file is missing or damaged, or the transforms are of other products.
    """
    with _told(folder):
        stored = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_StoredCatalog)
        columns = CatalogColumns(
            _open(folder / "days.npy"),
            _open_all(folder, "still", stored.still),
            _open_all(folder, "moving", stored.moving),
        )
        catalog = Catalog(fitted, columns)
        if stored.num_items != catalog.num_items:
            raise ValueError(f"found {stored.num_items:,} products, expected {catalog.num_items:,}")
    return catalog


def store_sets(sets: RaggedSets, folder: Path) -> None:
    """Write sets of numbers into `folder`, all or nothing."""
    with publish_folder(folder) as aside:
        _save(aside / "offsets.npy", sets.offsets)
        _save(aside / "values.npy", sets.values)


def open_sets(folder: Path) -> RaggedSets:
    """Sets of numbers as they were stored. Raises ArtifactError when a file is missing or damaged."""
    with _told(folder):
        return RaggedSets(_open(folder / "offsets.npy"), _open(folder / "values.npy"))


class _Growing:
    """A file of an array that rows are added to; rows of lists may get wider, with zeros behind the shorter ones."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("wb")
        self._shape: tuple[int, ...] = (0,)
        self._described: Any = None
        self.last: Any = 0
        """The value added last."""

    def add(self, values: npt.NDArray[Any]) -> None:
        """Add rows; all are of one type."""
        if self._described is None:
            self._described, self._shape = np.lib.format.dtype_to_descr(values.dtype), (0, *values.shape[1:])
            self._write_header()
        if values.ndim == 2:
            values = self._of_one_width(values)
        for start in range(0, len(values), _ROWS_AT_ONCE):
            self._file.write(np.ascontiguousarray(values[start : start + _ROWS_AT_ONCE]).data)
        if values.ndim == 1 and len(values):
            self.last = values[-1]
        self._shape = (self._shape[0] + len(values), *self._shape[1:])

    def close(self) -> None:
        """Say in the file's head how many rows there are."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _of_one_width(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if values.shape[1] > self._shape[1]:
            self._widen(values.shape[1])
        elif values.shape[1] == self._shape[1]:
            return values
        return np.pad(values, ((0, 0), (0, self._shape[1] - values.shape[1])))

    def _widen(self, width: int) -> None:
        self.close()
        narrow = self._path.rename(self._path.with_suffix(".narrow"))
        rows = _open(narrow)
        self._file, self._shape = self._path.open("wb"), (0, width)
        self._write_header()
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            self.add(rows[start : start + _ROWS_AT_ONCE])
        narrow.unlink()

    def _write_header(self) -> None:
        # NumPy leaves room for a longer first axis: the head is as long whatever the number of rows.
        described = {"descr": self._described, "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._file, described)


def _columns_of(questions: Questions) -> dict[str, npt.NDArray[Any]]:
    """Arrays by the names of their files."""
    found: dict[str, npt.NDArray[Any]] = {}
    for kind, tensors in (("tensor", questions.tensors), ("stranger", questions.stranger)):
        found |= {f"{kind}{number}": tensor.numpy() for number, tensor in enumerate(tensors.values())}
    lists = {f"history{number}": ragged for number, ragged in enumerate((questions.history or {}).values())}
    for name, ragged in (lists | {"targets": questions.targets}).items():
        found |= {f"{name}{_OFFSETS}": ragged.offsets, f"{name}.values": ragged.values.numpy()}
    found |= {"day": questions.day, "bought_us": questions.bought_us}
    return found if questions.weight is None else found | {"weight": questions.weight}


def _described(questions: Questions, num_before: int) -> _Stored:
    return _Stored(
        num_before + len(questions),
        list(questions.tensors),
        list(questions.stranger),
        list(questions.history) if questions.history is not None else None,
        questions.id_column,
        questions.weight is not None,
    )


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say of a damaged file which folder it is in, and what to do."""
    try:
        yield
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{folder} can't be read: {error}. Delete the folder and run again.") from error


def _save(path: Path, values: npt.NDArray[Any]) -> None:
    column = _Growing(path)
    column.add(values)
    column.close()


def _open_all(folder: Path, kind: str, names: list[str]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(_open(folder / f"{kind}{number}.npy")) for number, name in enumerate(names)}


def _open_ragged(folder: Path, name: str) -> Ragged:
    return Ragged(_open(folder / f"{name}{_OFFSETS}.npy"), torch.from_numpy(_open(folder / f"{name}.values.npy")))


def _open(path: Path) -> npt.NDArray[Any]:
    # Copy on write: tensors want memory that may be written to, and the file must stay as it is.
    found: npt.NDArray[Any]
    try:
        found = np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError:  # nothing can be mapped of a file without rows; a damaged one raises again
        found = np.load(path, allow_pickle=False)
    return found
