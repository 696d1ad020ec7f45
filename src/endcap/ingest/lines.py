"""A text file as a shop wrote it in (gzipped or not, any encoding, broken bytes), clean UTF-8 out, piece by piece."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, cast

from endcap.contracts.errors import InputError

BROKEN: Final = "\ufffd"
"""Stands where bytes were no text in the file's encoding."""

_NUM_BYTES_READ: Final = 1 << 20
_NUM_BYTES_JUDGED: Final = 8 << 20
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def _opened(path: Path) -> IO[bytes]:
    is_gzip = path.name.lower().endswith(".gz")
    return cast("IO[bytes]", gzip.open(path) if is_gzip else path.open("rb"))


class CleanStream:
    """A readable of UTF-8 bytes for pyarrow: without byte order mark, leading blank lines and broken sequences."""

    def __init__(self, path: Path, encoding: str = "utf-8") -> None:
        self._path = path
        self._file = _opened(path)
        self._decoder: codecs.IncrementalDecoder | None = None
        self._encoding = encoding
        self._rest = b""
        self._at_start = True
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes (all that is left when negative); empty at the end. Raises InputError on a torn archive."""
        pieces = [self._rest]
        num_bytes = len(self._rest)
        while size < 0 or num_bytes < size:
            piece = self._next()
            if piece is None:
                break
            pieces.append(piece)
            num_bytes += len(piece)
        whole = b"".join(pieces)
        if size < 0:
            size = len(whole)
        self._rest = whole[size:]
        return whole[:size]

    def close(self) -> None:
        """Close the file."""
        self.closed = True
        self._file.close()

    def _next(self) -> bytes | None:
        """The next piece, which may be empty; None at the end."""
        try:
            raw = self._file.read(_NUM_BYTES_READ)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{self._path} can't be read to its end: {error}. Copy it again in full.") from error
        if self._decoder is None:
            mark, encoding = next(
                ((mark, name) for mark, name in _BYTE_ORDER_MARKS if raw.startswith(mark)), (b"", self._encoding)
            )
            raw = raw[len(mark) :]
            self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        text = self._decoder.decode(raw, final=not raw)
        if not raw and not text:
            return None
        if self._at_start:
            text = text.lstrip("\r\n")
            self._at_start = not text
        return text.encode()


def encoding_of(path: Path) -> str:
    """What a text file's first megabytes can be read as: UTF-8 (with a byte order mark also UTF-16), cp1252 or latin-1."""
    try:
        with _opened(path) as file:
            head = file.read(_NUM_BYTES_JUDGED)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} can't be read to its end: {error}. Copy it again in full.") from error
    if head.startswith(tuple(mark for mark, _ in _BYTE_ORDER_MARKS)):
        return "utf-8"
    for encoding in ("utf-8", "cp1252"):
        try:
            codecs.getincrementaldecoder(encoding)().decode(head)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def text_lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    r"""The file's lines, split at `\n` alone and without it and `\r` before it; blank lines at its start are left out."""
    stream = CleanStream(path, encoding)
    try:
        rest = b""
        while piece := stream.read(_NUM_BYTES_READ):
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield line.removesuffix(b"\r").decode()
        if rest:
            yield rest.removesuffix(b"\r").decode()
    finally:
        stream.close()
