"""A folder in, a workspace out: where events, features, runs, releases, serving state and reports live."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from endcap.contracts.errors import ArtifactError, InputError
from endcap.workspace.atomic import write_text

MARKER = "endcap.yaml"
FORMAT_VERSION = 1
FOLDERS = ("01_events", "02_features", "03_runs", "04_releases", "05_serving", "06_reports")

_KEY_BYTES = 32
_USER_KEY_HEX_DIGITS = 16
_SECRET_MODE = 0o600


@dataclass(frozen=True)
class Workspace:
    """A workspace on disk. `key` is the secret that hashes ids wherever people or other systems read them."""

    path: Path
    key: bytes = field(repr=False)

    @classmethod
    def init(cls, path: Path, key: bytes | None = None) -> Workspace:
        """Make `path` a workspace, or return the one that is there: nothing that exists is overwritten.

        Its key is `key`, by default a random one. Raises InputError when `path` is a file, or a workspace with another
        key than the one that is given.
        """
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; a workspace is a folder. Choose another place: endcap init DIR.")
        path.mkdir(parents=True, exist_ok=True)
        for folder in FOLDERS:
            (path / folder).mkdir(exist_ok=True)
        _mark(path, key)
        workspace = cls.open(path)
        if key is not None and not hmac.compare_digest(key, workspace.key):
            raise InputError(
                f"{path} is a workspace with another key than the one given: what it holds is hashed by its own. Take another "
                "folder, or the key in its endcap.yaml."
            )
        return workspace

    @classmethod
    def open(cls, path: Path) -> Workspace:
        """Open the workspace at `path`; folders that went missing are made again.

        Raises InputError when `path` is no workspace, ArtifactError when its marker file can't be read.
        """
        marker = path / MARKER
        if not marker.is_file():
            found = f"it has no {MARKER}" if path.is_dir() else "there is no such folder"
            raise InputError(f"{path} is no workspace: {found}. Make one with: endcap init {path}")
        key = _read_key(marker)
        for folder in FOLDERS:
            (path / folder).mkdir(exist_ok=True)
        return cls(path=path, key=key)

    @property
    def events(self) -> Path:
        """Event, item, user and quarantine tables."""
        return self.path / FOLDERS[0]

    @property
    def features(self) -> Path:
        """Features, splits and transformed columns."""
        return self.path / FOLDERS[1]

    @property
    def runs(self) -> Path:
        """One folder per run with its manifest."""
        return self.path / FOLDERS[2]

    @property
    def releases(self) -> Path:
        """Sealed releases and the aliases that name them."""
        return self.path / FOLDERS[3]

    @property
    def serving(self) -> Path:
        """What servers write: spools and state."""
        return self.path / FOLDERS[4]

    @property
    def reports(self) -> Path:
        """Reports for people."""
        return self.path / FOLDERS[5]

    @property
    def ledger(self) -> Path:
        """What is done already, one file per step key."""
        return self.path / ".ledger"

    @property
    def scratch(self) -> Path:
        """Temporary files of running work; safe to delete when nothing runs."""
        return self.path / ".scratch"

    def user_key(self, user_id: str) -> str:
        """The name under which logs, metrics, errors and reports may speak of a user: 16 hex digits."""
        return hmac.new(self.key, user_id.encode(), hashlib.sha256).hexdigest()[:_USER_KEY_HEX_DIGITS]


def _mark(path: Path, key: bytes | None) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        # Several processes of one job make their workspace at once: the first one's key holds.
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not (path / MARKER).exists():
            digits = (key or secrets.token_bytes(_KEY_BYTES)).hex()
            write_text(
                path / MARKER,
                "# Makes this folder an Endcap workspace. The key hashes user ids in logs and reports: keep it secret.\n"
                f"format_version: {FORMAT_VERSION}\nworkspace_key: {digits}\n",
                mode=_SECRET_MODE,
            )
    finally:
        os.close(handle)


def key_of(digits: str) -> bytes | None:
    """The key that a text stands for, as `endcap.yaml` has it; None where it is none."""
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        return None
    return key if len(key) == _KEY_BYTES else None


def _read_key(marker: Path) -> bytes:
    damaged = f"{marker} can't be read as a workspace's marker"
    remedy = "Restore the file from a backup: without its key, hashed ids no longer match earlier ones."
    try:
        content = yaml.safe_load(marker.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{damaged}: it is no YAML. {remedy}") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{damaged}: it holds no keys, format_version and workspace_key were expected. {remedy}")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{marker} has format version {version}; this Endcap reads {FORMAT_VERSION}. Use the Endcap that wrote it."
        )
    try:
        key = bytes.fromhex(str(content.get("workspace_key")))
    except ValueError as error:
        raise ArtifactError(f"{damaged}: workspace_key is no hex text. {remedy}") from error
    if len(key) != _KEY_BYTES:
        raise ArtifactError(f"{damaged}: workspace_key has {len(key)} bytes, {_KEY_BYTES} were expected. {remedy}")
    return key
