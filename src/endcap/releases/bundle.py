"""A folder of parts in, a sealed release out, and back: digests are checked before anything is loaded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.release import (
    DEFAULT_SIGNATURE,
    FORMAT_VERSION,
    MANIFEST,
    RANKING_SIGNATURE,
    FileEntry,
    ReleaseManifest,
)
from endcap.workspace.redaction import redact_values

# Large, for between two chunks a thread waits for the interpreter: at a server's start others are busy in it.
_CHUNK_BYTES = 1 << 22


class Release(msgspec.Struct, frozen=True):
    """A release on disk whose every file has the digest that its manifest names."""

    path: Path
    manifest: ReleaseManifest
    digest: str

    def file(self, name: str) -> Path:
        """Path of the part `name`. Raises ArtifactError when the release has no such part."""
        if name not in self.manifest.files:
            raise ArtifactError(
                f"Release {self.path} has no part {name}; it has: {', '.join(sorted(self.manifest.files))}"
            )
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether the release holds the part `name`."""
        return name in self.manifest.files


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    chunk = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(chunk):
            digest.update(chunk[:num_bytes])
    return digest.hexdigest()


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Digest and size of each file below `folder`, but the manifest itself; keys are POSIX relative paths, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_of(path), num_bytes=path.stat().st_size)
        for path in paths
    }


def encode_manifest(manifest: ReleaseManifest) -> bytes:
    """The manifest's bytes as they stand in the file: indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def seal_release(staging: Path, target: Path, manifest: ReleaseManifest) -> Release:
    """Turn a folder of parts into the release `target`: digests, then the manifest, then one rename.

    `manifest.files` is filled in here. A crash leaves `staging`, which nothing takes for a release. Raises
    InputError when `target` exists: a release is never changed; ArtifactError when a part is missing.
    """
    if target.exists():
        raise InputError(f"{target} exists already; a release is never overwritten. Choose another version.")
    lineage = msgspec.structs.replace(manifest.lineage, configuration=redact_values(manifest.lineage.configuration))
    sealed = msgspec.structs.replace(manifest, files=describe_files(staging), lineage=lineage)
    _check_whole(staging, sealed)
    for name in sealed.files:
        _flush(staging / name)
    path = staging / MANIFEST
    path.write_bytes(encode_manifest(sealed))
    _flush(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging.rename(target)
    _flush(target.parent)
    return Release(path=target, manifest=sealed, digest=hashlib.sha256(encode_manifest(sealed)).hexdigest())


def next_version(folder: Path) -> int:
    """The version number after the highest below `folder`, 1 for the first."""
    numbers = [int(path.name) for path in folder.glob("*") if path.name.isdigit()] if folder.is_dir() else []
    return max(numbers, default=0) + 1


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_release(path: Path) -> Release:
    """Open the release at `path` after checking every file against the manifest.

    Raises InputError when `path` is no release folder, ArtifactError when a file is missing, changed or unlisted
    or the manifest can't be read.
    """
    manifest_path = path / MANIFEST
    if not path.is_dir() or not manifest_path.is_file():
        found = "it does not exist" if not path.exists() else f"it has no {MANIFEST}"
        raise InputError(
            f"{path} is no release: {found}. Give a release folder, such as one below 04_releases of a workspace."
        )
    raw = manifest_path.read_bytes()
    try:
        manifest = msgspec.json.decode(raw, type=ReleaseManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{manifest_path} can't be read as a release manifest: {error}. Restore it or train again."
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise ArtifactError(
            f"{manifest_path} has format version {manifest.format_version}; this Endcap reads {FORMAT_VERSION}. "
            "Use the Endcap that wrote it, or release again."
        )
    _check_whole(path, manifest)
    _check_files(path, manifest)
    return Release(path=path, manifest=manifest, digest=hashlib.sha256(raw).hexdigest())


def _check_whole(path: Path, manifest: ReleaseManifest) -> None:
    """Every way to answer that the manifest tells of has its files and its signature, and there is at least one."""
    if manifest.retrieval is None and manifest.ranking is None:
        raise ArtifactError(f"{path} has neither retrieval nor ranking: it can answer nothing. Release again.")
    needed = [DEFAULT_SIGNATURE, *([RANKING_SIGNATURE] if manifest.ranking else [])]
    missing = [name for name in manifest.parts if name not in manifest.files]
    missing += [f"the signature {name}" for name in needed if name not in manifest.signatures]
    if missing:
        raise ArtifactError(f"{path} is not whole: its manifest asks for {', '.join(missing)}. Release again.")


def _check_files(path: Path, manifest: ReleaseManifest) -> None:
    present = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    if unlisted := sorted(present - {MANIFEST, *manifest.files}):
        raise ArtifactError(
            f"Release {path} holds what its manifest does not list: {', '.join(unlisted[:5])}. "
            "Remove that, or copy the release again from where it was made."
        )
    for name, entry in manifest.files.items():
        if name.startswith("/") or ".." in name.split("/") or "\\" in name:
            raise ArtifactError(
                f"{path / MANIFEST} names a file outside the release: {name!r}. Do not use this release."
            )
        part = path / name
        if not part.is_file():
            raise ArtifactError(f"Release {path} lacks {name}, which its manifest lists. Copy the whole folder again.")
        if part.stat().st_size != entry.num_bytes or sha256_of(part) != entry.sha256:
            raise ArtifactError(
                f"{part} is not the file that was released: its digest differs from the manifest's. "
                "Nothing was loaded; copy the release again from where it was made."
            )
