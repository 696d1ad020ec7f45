"""A run's inputs, settings, timings and figures in, `03_runs/<run_id>/manifest.json` out."""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from endcap.contracts.errors import ArtifactError, InputError
from endcap.workspace.atomic import write_json
from endcap.workspace.layout import Workspace
from endcap.workspace.redaction import redact_values

RUN_MANIFEST = "manifest.json"
FORMAT_VERSION = 1
UNKNOWN = "unknown"
PULL = "data-pull"
"""The step that fetches a version of data kept elsewhere; its manifests say which version a file is of."""
GIT_SHA_VARIABLE = "ENDCAP_GIT_SHA"
"""Names the commit where the code has no repository around it: in an image, the one that it was built from."""
LIBRARIES = (
    "endcap",
    "deltalake",
    "duckdb",
    "ibis-framework",
    "numpy",
    "onnx",
    "onnxruntime",
    "pyarrow",
    "scipy",
    "torch",
)

_CHUNK_BYTES = 1 << 20
_GIT_TIMEOUT_S = 10


class InputFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that a run read.

    `data_version` names the version of data kept elsewhere that brought exactly these bytes; empty where none did.
    """

    path: str
    sha256: str
    num_bytes: int
    data_version: str = ""


class RunManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run read, how it was set up, what it gave, and how long each stage took.

    `data_versions` are the table versions read or written, `dataset_version` the number of the dataset that they make
    up; 0 where that is unknown or they make up none. Times are ISO 8601 in UTC. `git_sha` is "unknown" when the
    code runs outside a repository. A metric is null where it could not be measured; `remarks` say why.
    """

    format_version: int
    run_id: str
    step: str
    started_at: str
    ended_at: str
    inputs: list[InputFile]
    data_versions: dict[str, int]
    configuration: dict[str, Any]
    git_sha: str
    library_versions: dict[str, str]
    timings_s: dict[str, float]
    metrics: dict[str, float | int | None]
    dataset_version: int = 0
    remarks: list[str] = []


class Run:
    """A run under way: measures its stages and writes its manifest at the end."""

    def __init__(self, workspace: Workspace, step: str, *, run_id: str | None = None) -> None:
        self.run_id = run_id or new_run_id(step)
        self.step = step
        self.folder = workspace.runs / self.run_id
        self._runs = workspace.runs
        self._started = datetime.now(UTC)
        self._timings_s: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the wall-clock time of the block under `name`; the same name adds up."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._timings_s[name] = self._timings_s.get(name, 0.0) + time.perf_counter() - start

    @property
    def timings_s(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        return dict(self._timings_s)

    def finish(
        self,
        *,
        inputs: Sequence[InputFile] = (),
        data_versions: Mapping[str, int] | None = None,
        dataset_version: int = 0,
        configuration: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float | int | None] | None = None,
        remarks: Sequence[str] = (),
    ) -> Path:
        """Write the manifest and return its path. Call it once, after everything else of the run is on disk."""
        manifest = RunManifest(
            format_version=FORMAT_VERSION,
            run_id=self.run_id,
            step=self.step,
            started_at=self._started.isoformat(),
            ended_at=datetime.now(UTC).isoformat(),
            inputs=_versioned(self._runs, inputs),
            data_versions=dict(data_versions or {}),
            configuration=dict(configuration or {}),
            git_sha=git_sha(),
            library_versions=library_versions(),
            timings_s={name: round(seconds, 6) for name, seconds in self._timings_s.items()},
            metrics=dict(metrics or {}),
            dataset_version=dataset_version,
            remarks=list(remarks),
        )
        path = self.folder / RUN_MANIFEST
        write_json(path, redact_values(msgspec.to_builtins(manifest)))
        return path


def new_run_id(step: str) -> str:
    """A name that sorts by time and never repeats: `<step>-<UTC time>-<6 hex digits>`."""
    return f"{step}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def read_manifest(workspace: Workspace, run_id: str) -> RunManifest:
    """The manifest of a finished run. Raises InputError when there is none, ArtifactError when it can't be read."""
    path = workspace.runs / run_id / RUN_MANIFEST
    if Path(run_id).name != run_id or not path.is_file():
        raise InputError(
            f"There is no finished run {run_id!r} in {workspace.runs}. Its folders are the runs there are."
        )
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} can't be read as a run manifest: {error}. Run the step again.") from error


def _versioned(runs: Path, inputs: Sequence[InputFile]) -> list[InputFile]:
    """Inputs with the version of data that brought the same bytes into this workspace, wherever they were copied to."""
    known: dict[str, str] = {}
    for path in sorted(runs.glob(f"{PULL}-*/{RUN_MANIFEST}")) if inputs else ():
        pulled = msgspec.json.decode(path.read_bytes(), type=_Pulled)
        known |= {file.sha256: pulled.configuration.data_version for file in pulled.inputs}
    return [msgspec.structs.replace(one, data_version=known.get(one.sha256, one.data_version)) for one in inputs]


class _PulledVersion(msgspec.Struct):
    data_version: str


class _Pulled(msgspec.Struct):
    inputs: list[InputFile]
    configuration: _PulledVersion


def describe_input(path: Path) -> InputFile:
    """Digest and size of a file, read in chunks."""
    digest = hashlib.sha256()
    num_bytes = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
    return InputFile(path=str(path), sha256=digest.hexdigest(), num_bytes=num_bytes)


def library_versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of Python and of the libraries that are installed; the others are left out."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_sha(folder: Path | None = None) -> str:
    """The commit of the repository that tracks the code (or the files of `folder`), else "unknown".

    Code outside of any repository is of the commit that the environment names: an image says what it was built from.
    """
    other = UNKNOWN if folder is not None else os.environ.get(GIT_SHA_VARIABLE) or UNKNOWN
    git = shutil.which("git")
    if git is None:
        return other
    where = folder or Path(__file__).parent
    # An installed copy inside somebody's repository is not tracked there: its commit would say nothing about the code.
    tracked = _run_git(git, where, "ls-files", ".")
    return _run_git(git, where, "rev-parse", "--verify", "HEAD") or other if tracked else other


def _run_git(git: str, folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command without a shell
            [git, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
