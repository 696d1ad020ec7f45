"""A quick test that was planned here, run on another machine: its data travel there, its record travels back.

Below `STAGING_PREFIX/quicktests`: `data/RUN/SET/` holds what a source run was tuned on, once for all its quick tests;
`asked/RUN.json` one quick test as it was planned. What it came to stands below `MODEL_DIR/RUN`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.job import JobEnvironment
from endcap.contracts.reporting import Reporter
from endcap.flows import quicktest as flow
from endcap.flows.quicktest_record import RECORD, Record, write_record
from endcap.flows.transformed import NOTE
from endcap.workspace.atomic import write_json
from endcap.workspace.layout import Workspace
from endcap.workspace.locations import Location
from endcap.workspace.manifests import RUN_MANIFEST

FOLDER: Final = "quicktests"
CONTENTS: Final = "contents.json"

_TUNED: Final = "checkpoint-eval"
_MADE_WHEN_ASKED: Final = "test"  # of a set: there or not, so that it is no part of what is sent


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One quick test, whole: `data` is where what it trains on stands."""

    run_id: str
    source_run: str
    data: str
    configuration: dict[str, Any]


def stage(workspace: Workspace, planned: flow.Plan, run_id: str, staging: str) -> Location:
    """Bring a quick test and its data to `staging`; gives where the quick test stands. What is there isn't sent again.

    Raises ArtifactError when the source run's transformed data are gone.
    """
    if not planned.folder.is_dir():
        raise ArtifactError(
            f"The transformed data of {planned.source_run} are gone: expected {planned.folder}. Run a quick test here first, "
            "which makes them again."
        )
    data = Location.parse(staging) / FOLDER / "data" / planned.source_run / planned.folder.name
    with _gathered(workspace, planned) as folder:
        data.upload_folder(folder, last=CONTENTS)
    configuration = planned.configuration.model_dump(mode="json", exclude_none=True)
    asked = place_of(staging, run_id)
    asked.write_bytes(msgspec.json.encode(_Asked(run_id, planned.source_run, str(data), configuration)))
    return asked


def place_of(staging: str, run_id: str) -> Location:
    """Where a quick test stands, as it was planned."""
    return Location.parse(staging) / FOLDER / "asked" / f"{run_id}.json"


def run_staged(place: str, job: JobEnvironment, report: Reporter, *, timeout_s: float | None = None) -> Record:
    """Do a quick test that was staged at `place`, and leave its record below `MODEL_DIR`, also where it fails.

    Users have other hashed names here, so that its recommendations can't be compared with those of other runs one by one.
    """
    given = Location.parse(place)
    try:
        asked = msgspec.json.decode(given.read_bytes(), type=_Asked)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{given} can't be read as a quick test: {error}. Submit it again.") from error
    with tempfile.TemporaryDirectory(prefix="endcap-quicktest-") as folder:
        path = Path(folder) / "workspace"
        Location.parse(asked.data).download_folder(path, last=CONTENTS)
        workspace = Workspace.init(path)
        configuration = Configuration.model_validate(asked.configuration)
        planned = flow.plan(workspace, asked.source_run, model=configuration.model)
        planned = replace(planned, configuration=configuration)
        try:
            return flow.run_quicktest(workspace, planned, report, timeout_s=timeout_s, run_id=asked.run_id)
        finally:
            _send_back(workspace.runs / asked.run_id, Location.parse(job.model_dir) / asked.run_id)


def fetch(workspace: Workspace, run_id: str, model_dir: str) -> Record | None:
    """Bring a quick test's record and manifest here; None where there is none yet."""
    place = Location.parse(model_dir) / run_id
    if not (place / RECORD).exists():
        return None
    try:
        record = msgspec.json.decode((place / RECORD).read_bytes(), type=Record)
    except msgspec.DecodeError as error:
        raise ArtifactError(
            f"{place / RECORD} can't be read as a quick test's record: {error}. Run it again."
        ) from error
    if record.run_id != run_id:
        raise InputError(
            f"{place / RECORD} is the record of {record.run_id}; expected that of {run_id}. Look at the bucket."
        )
    folder = workspace.runs / run_id
    folder.mkdir(parents=True, exist_ok=True)
    if (place / RUN_MANIFEST).exists():
        (place / RUN_MANIFEST).download_file(folder / RUN_MANIFEST)
    write_record(workspace, record)
    return record


def _send_back(folder: Path, place: Location) -> None:
    for name in (RECORD, RUN_MANIFEST):
        if (folder / name).is_file():
            (place / name).upload_file(folder / name)


@contextmanager
def _gathered(workspace: Workspace, planned: flow.Plan) -> Iterator[Path]:
    """A folder with what the other machine needs, laid out as a workspace, each file a second name of the one here."""
    source = workspace.runs / planned.source_run
    tables = planned.tables.folder
    wanted = [
        *(source / name for name in (RUN_MANIFEST, NOTE)),
        *_files(source / _TUNED),
        *(path for path in sorted(tables.iterdir()) if path.is_file() and not path.name.startswith(".")),
        *(path for path in _files(planned.folder) if path.relative_to(planned.folder).parts[0] != _MADE_WHEN_ASKED),
    ]
    workspace.scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="staged-", dir=workspace.scratch) as folder:
        names = [path.relative_to(workspace.path).as_posix() for path in wanted]
        for path, name in zip(wanted, names, strict=True):
            there = Path(folder) / name
            there.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, there)
        write_json(Path(folder) / CONTENTS, {"source_run": planned.source_run, "files": names})
        yield Path(folder)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
