"""A key in, the object's bytes or what is known of them out: what each kind of store has to be able to do."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from endcap.contracts.errors import ArtifactError, ConflictError, InputError, TransientError

CHUNK_BYTES: Final = 16 << 20
"""How much of a large object travels in one request: what a broken connection costs."""

SHA256: Final = "endcap-sha256"
WRITE: Final = "endcap-write"
"""Keys of an object's own metadata: the digest of its content; who wrote it, and in which call."""

_READ_BYTES: Final = 1 << 20


class ReplacedError(TransientError):
    """Another generation took the object's place while it was read."""


class Sink(Protocol):
    """What bytes can be written to."""

    def write(self, data: bytes, /) -> int:
        """Append them."""
        ...


@dataclass(frozen=True)
class Stat:
    """What a store knows of an object."""

    num_bytes: int
    generation: str
    """Changes with every write; S3's changes with every write of other bytes."""
    sha256: str | None = None
    """Hexadecimal; None where the object was written by another program."""
    md5: str | None = None
    """Hexadecimal; None where the store gives none."""
    write_id: str | None = None
    """Host, process and call that wrote it; None where that is unknown."""
    written_at: str = ""
    """ISO 8601, as the store says."""

    @property
    def is_md5_alone(self) -> bool:
        """Whether MD5 is all that a reader can check."""
        return self.sha256 is None and self.md5 is not None


@dataclass(frozen=True)
class Condition:
    """What must hold of the object that a write takes the place of; nothing by default."""

    if_absent: bool = False
    """Nothing may be there."""
    if_generation: str | None = None
    """This generation has to be there."""


@dataclass(frozen=True)
class Content:
    """Bytes at hand or in a local file, measured before they travel."""

    source: bytes | Path
    num_bytes: int
    sha256: str
    md5: bytes
    write_id: str

    @classmethod
    def of(cls, source: bytes | Path) -> Content:
        """Measure them; a file is read once."""
        sha256, md5, num_bytes = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        if isinstance(source, bytes):
            sha256.update(source)
            md5.update(source)
            num_bytes = len(source)
        else:
            with source.open("rb") as file:
                while chunk := file.read(_READ_BYTES):
                    sha256.update(chunk)
                    md5.update(chunk)
                    num_bytes += len(chunk)
        write_id = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(8)}"
        return cls(source, num_bytes, sha256.hexdigest(), md5.digest(), write_id)

    def chunk(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`."""
        if isinstance(self.source, bytes):
            return self.source[start:stop]
        with self.source.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    @property
    def metadata(self) -> dict[str, str]:
        """What an object store keeps beside the bytes."""
        return {SHA256: self.sha256, WRITE: self.write_id}


class Store(Protocol):
    """One bucket, or the local disk. Keys are POSIX paths; the disk's are its own paths.

    Every call either does all that it says or raises: TransientError when it gave up trying, InputError where rights or
    the bucket are missing.
    """

    def stat(self, key: str) -> Stat | None:
        """What is known of an object; None when there is none."""
        ...

    def fetch(self, key: str, stat: Stat, into: Sink) -> None:
        """Append the bytes of exactly this generation. Raises ReplacedError when another one took its place."""
        ...

    def write(self, key: str, content: Content, condition: Condition) -> Stat:
        """Put all of it there, or nothing. Raises ConflictError when the condition doesn't hold."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        """Every object below the folder `prefix`, in any order; metadata may be missing."""
        ...

    def names(self, prefix: str) -> Sequence[str]:
        """Names directly below the folder `prefix`, of objects and of folders, in any order."""
        ...

    def delete(self, key: str) -> None:
        """Take an object away; nothing happens where there is none."""
        ...


def conflict(where: str, found: Stat | None, condition: Condition) -> ConflictError:
    """The error for a write whose condition doesn't hold: what is there, who put it there, what was expected."""
    expected = "nothing was expected there" if condition.if_absent else f"generation {condition.if_generation} expected"
    if found is None:
        return ConflictError(f"{where} is gone; {expected}. Somebody removed it: look, then decide anew.")
    writer = found.write_id.rsplit("/", 1)[0] if found.write_id else "another writer"
    return ConflictError(
        f"{where} was written by {writer}{f' at {found.written_at}' if found.written_at else ''} (generation "
        f"{found.generation}, {found.num_bytes} bytes); {expected}. Read what is there, then decide anew."
    )


def check_arrived(where: str, stat: Stat, num_bytes: int, sha256: str, md5: str) -> None:
    """Hold bytes that arrived against what the store said of them.

    Raises TransientError when bytes are missing or too many, ArtifactError when they are others than were written.
    """
    if num_bytes != stat.num_bytes:
        raise TransientError(f"{where}: {num_bytes} bytes arrived, expected {stat.num_bytes}. Try again.")
    if (stat.sha256 is not None and sha256 != stat.sha256) or (stat.is_md5_alone and md5 != stat.md5):
        raise ArtifactError(
            f"{where} is damaged: its bytes have the SHA-256 {sha256[:12]}…, not the digest that was written with them. "
            "Write it again from its source."
        )


def missing(where: str) -> ArtifactError:
    """The error for an object that has to be there."""
    return ArtifactError(f"{where} is missing. Check the name, and that whoever writes it has finished.")


def no_library(what: str, extra: str) -> InputError:
    """The error for a store whose client library isn't installed."""
    return InputError(f"{what} needs a library that isn't installed: pip install 'endcap[{extra}]'")
