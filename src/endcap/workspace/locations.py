"""`gs://bucket/a`, `s3://bucket/a` or a local path in, one way to read, write, list and publish there out.

Every write is whole or not there. A folder is published by its last file: one without it is no result.
"""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from endcap.contracts.errors import ArtifactError, ConflictError, InputError
from endcap.workspace import atomic
from endcap.workspace.stores import disk
from endcap.workspace.stores.choice import store_for
from endcap.workspace.stores.patience import Patience
from endcap.workspace.stores.store import Condition, Content, ReplacedError, Stat, Store, check_arrived, missing

MANIFEST: Final = "manifest.json"
"""The file that makes a folder a result; it is written last and taken away first."""

REMOTE: Final = ("gs", "s3")
_LOCAL: Final = "file"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_MAX_READS: Final = 4
_MAX_REPLACED: Final = 16
# `#` and `?` would mean a generation or a query to other programs, a backslash a folder to some.
_PART = re.compile(r"[^\x00-\x1f\x7f\\#?*\[\]/]+")


@dataclass(frozen=True, order=True)
class Location:
    """A place for a file or a folder; whether anything is there is another question."""

    scheme: str
    """`gs`, `s3` or `file`."""
    bucket: str
    """Empty on the local disk."""
    key: str
    """The path below the bucket, without a slash at either end; the path itself on the local disk."""
    patience: Patience = field(default=Patience(), compare=False, repr=False)
    """How long calls to a remote store may take. Passed on to whatever is below."""

    @classmethod
    def parse(cls, text: str | Path) -> Location:
        """Read a location. Raises InputError for another scheme, a name no bucket can have, or a path with `..`."""
        given = str(text)
        matched = _SCHEME.fullmatch(given)
        if matched is None:
            if not given.strip() or "\0" in given:
                raise InputError(f"Found the location {given!r}; expected a path, gs://BUCKET/… or s3://BUCKET/….")
            return cls(_LOCAL, "", str(Path(given)))
        scheme, rest = matched[1].lower(), matched[2]
        bucket, _, key = rest.partition("/")
        if scheme not in REMOTE:
            raise InputError(f"Found the location {given!r}; expected a path, gs://BUCKET/… or s3://BUCKET/….")
        if not _BUCKET.fullmatch(bucket):
            raise InputError(
                f"Found the bucket {bucket!r} in {given!r}; expected 3 to 222 lowercase letters, digits, '-', '_' or '.'."
            )
        key = key.rstrip("/")
        return cls(scheme, bucket, _checked(key) if key else "")

    def within(self, deadline_s: float) -> Location:
        """The same place with less patience: each call, with all of its tries, ends within `deadline_s`."""
        return replace(self, patience=replace(self.patience, deadline_s=deadline_s))

    @property
    def is_remote(self) -> bool:
        """Whether it lies in an object store."""
        return self.scheme != _LOCAL

    @property
    def path(self) -> Path:
        """The local path. Raises InputError for a remote location."""
        if self.is_remote:
            raise InputError(f"{self} lies in an object store; expected a local path. Download it first.")
        return Path(self.key)

    @property
    def name(self) -> str:
        """The last part of the path; the bucket's name for a whole bucket."""
        return PurePosixPath(self.key).name or self.bucket

    @property
    def parent(self) -> Location:
        """The folder that holds it; itself at the top."""
        above = str(PurePosixPath(self.key).parent)
        return replace(self, key="" if self.is_remote and above == "." else above)

    def __truediv__(self, child: str) -> Location:
        """What lies below: one name or several with slashes between them. Raises InputError for `..` and its like."""
        below = _checked(child)
        if self.is_remote:
            return replace(self, key=f"{self.key}/{below}" if self.key else below)
        return replace(self, key=str(Path(self.key) / below))

    def __str__(self) -> str:
        if not self.is_remote:
            return self.key
        return f"{self.scheme}://{self.bucket}/{self.key}" if self.key else f"{self.scheme}://{self.bucket}"

    def below(self, folder: Location) -> str:
        """Its path below `folder`, with slashes. Raises InputError when it lies elsewhere."""
        try:
            if (self.scheme, self.bucket) != (folder.scheme, folder.bucket):
                raise ValueError
            return str(PurePosixPath(self.key).relative_to(folder.key))
        except ValueError:
            raise InputError(f"{self} does not lie below {folder}.") from None

    # Single files

    def stat(self) -> Stat | None:
        """What is known of the file there; None when there is none."""
        return self._store.stat(self.key)

    def exists(self) -> bool:
        """Whether a file of exactly this name is there; a folder is there when `list` finds something."""
        return self.stat() is not None

    def read_bytes(self) -> bytes:
        """All of the file. Raises ArtifactError when it is missing or its bytes aren't the ones written."""
        held = BytesIO()
        self._fetch(held)
        return held.getvalue()

    def write_bytes(self, data: bytes, *, if_absent: bool = False, if_generation: str | None = None) -> Stat:
        """Put `data` there, in place of what is there.

        With `if_absent` only where nothing is, with `if_generation` only in the place of that generation of `stat`; of
        several such writers one wins. Raises ConflictError, which names the winner, for the others.
        """
        return self._store.write(self.key, Content.of(data), Condition(if_absent, if_generation))

    def upload_file(self, source: Path, *, if_absent: bool = False, if_generation: str | None = None) -> Stat:
        """Put a local file there, part by part when it is large; as `write_bytes` otherwise."""
        return self._store.write(self.key, Content.of(source), Condition(if_absent, if_generation))

    def download_file(self, target: Path) -> Stat:
        """Write it to a local file, whole and checked or not at all. Raises ArtifactError as `read_bytes` does."""
        with disk.written_aside(target) as file:
            return self._fetch(file)

    def delete(self) -> None:
        """Take the file away; nothing happens where there is none."""
        self._store.delete(self.key)

    # Folders

    def list(self) -> Sequence[Location]:
        """Every file below, at any depth, in the order of their names."""
        return sorted(location for location, _ in self._below())

    def names(self) -> Sequence[str]:
        """Names directly below, of files and of folders, sorted."""
        return sorted(self._store.names(self.key))

    def upload_folder(self, source: Path, *, last: str = MANIFEST) -> Sequence[Location]:
        """Put every file of a local folder there, `last` after all the others; gives the files that had to travel.

        What is there with the same content is passed over, so that a broken upload goes on where it stopped. One
        publisher at a time: files of another one are written over. Raises ConflictError, before anything travels and
        again at the end, when another `last` is there: a published folder is never changed.
        """
        files = sorted(path for path in source.rglob("*") if path.is_file())
        names = [path.relative_to(source).as_posix() for path in files]
        if last not in names:
            raise InputError(f"{source} has no {last}: expected the file that is written last. It is not complete.")
        there = {found.below(self): stat for found, stat in self._below()}
        content = Content.of(source / last)
        published = (self / last).stat() if last in there else None
        if published and not (self / last)._holds(published, content):
            raise ConflictError(
                f"{self} holds a published folder with another {last} (generation {published.generation}): it is never "
                "changed. Publish under another name, or remove it first."
            )
        travelled = [
            self / name for name in names if name != last and (self / name)._renew(source / name, name in there)
        ]
        if published is None:
            self._store.write((self / last).key, content, Condition(if_absent=True))
            travelled.append(self / last)
        return travelled

    def download_folder(self, target: Path, *, last: str | None = MANIFEST) -> None:
        """Make `target` a copy of it, which appears when all of it is there and checked.

        Raises ArtifactError when `last` is missing (with None: when there is no file at all), InputError when `target`
        exists.
        """
        files = self.list()
        if not files or (last is not None and self / last not in files):
            raise missing(str(self / last if last else self))
        with disk.explained(str(target)), atomic.publish_folder(target) as aside:
            for file in files:
                file.download_file(aside / _checked(file.below(self)))

    def delete_folder(self, *, first: str = MANIFEST) -> None:
        """Take away every file below, `first` before all the others, so that no half of it is taken for a whole."""
        self._store.delete((self / first).key)
        for file in self.list():
            file.delete()
        if not self.is_remote:
            shutil.rmtree(self.path, ignore_errors=True)  # the empty folders that an object store doesn't have

    @property
    def _store(self) -> Store:
        return store_for(self.scheme, self.bucket, self.patience)

    def _below(self) -> Iterator[tuple[Location, Stat]]:
        return ((replace(self, key=key), stat) for key, stat in self._store.list(self.key))

    def _renew(self, source: Path, is_there: bool) -> bool:
        content = Content.of(source)
        found = self.stat() if is_there else None  # a listing may lack the digest
        if found is not None and self._holds(found, content):
            return False
        self._store.write(self.key, content, Condition())
        return True

    def _holds(self, found: Stat, content: Content) -> bool:
        if found.num_bytes != content.num_bytes:
            return False
        if found.sha256 is not None:
            return found.sha256 == content.sha256
        if found.md5 is not None:
            return found.md5 == content.md5.hex()
        return not self.is_remote and Content.of(self.path).sha256 == content.sha256

    def _fetch(self, into: BinaryIO) -> Stat:
        num_damaged = num_replaced = 0
        while True:
            into.seek(0)
            into.truncate()
            found = self.stat()
            if found is None:
                raise missing(str(self))
            counted = _Counted(into)
            try:
                self._store.fetch(self.key, found, counted)
                check_arrived(str(self), found, counted.num_bytes, counted.sha256.hexdigest(), counted.md5.hexdigest())
            except ReplacedError:  # a reader beside a writer is no fault
                num_replaced += 1
                if num_replaced == _MAX_REPLACED:
                    raise
                time.sleep(random.uniform(0, self.patience.first_wait_s))  # noqa: S311 - no secret
            except ArtifactError:  # what came damaged may have become so on its way
                num_damaged += 1
                if num_damaged == _MAX_READS:
                    raise
            else:
                return found


class _Counted:
    """Hands bytes on, and measures them."""

    def __init__(self, into: BinaryIO) -> None:
        self._into = into
        self.num_bytes = 0
        self.sha256, self.md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)

    def write(self, data: bytes) -> int:
        self.num_bytes += len(data)
        self.sha256.update(data)
        self.md5.update(data)
        return self._into.write(data)


def _checked(below: str) -> str:
    for part in below.split("/"):
        if part in ("", ".", "..") or not _PART.fullmatch(part):
            raise InputError(
                f"Found {below!r} as a path below a location; expected names with single slashes between them, without "
                "'..', '\\\\', '#', '?', '*' or brackets."
            )
    return below
