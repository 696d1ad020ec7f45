"""The lint rule about places that may be remote: what it finds, what it lets through, and that the source holds to it."""

from __future__ import annotations

import pytest

from scripts.check_locations import SRC, findings


@pytest.mark.parametrize(
    "source",
    [
        "import glob",
        "from glob import glob",
        "import os.path",
        "from os import path",
        "import os\nos.path.join(a, b)",
        "open(name)",
        "import io\nio.open(name)",
        "Path(os.environ['MODEL_DIR'])",
        "Path(job.checkpoint_dir) / run_id",
        "shutil.copytree(settings.AIP_STORAGE_URI, target)",
        "def f(where: Location) -> None:\n    Path(str(where))",
        "def f() -> None:\n    where = Location.parse(text)\n    os.listdir(where)",
    ],
)
def test_what_takes_a_place_for_a_local_path_is_found(source: str) -> None:
    assert len({line for line, _ in findings(source)}) == 1


@pytest.mark.parametrize(
    "source",
    [
        "path.open('rb')",
        "path.glob('*.json')",
        "os.path.relpath(a)",
        "Workspace.open(path)",
        "Location.parse(os.environ['MODEL_DIR']) / run_id",
        "def f(where: Location) -> None:\n    Path(where.path)",
        "def f(where: Location) -> None:\n    pass\ndef g(where: str) -> None:\n    Path(where)",
    ],
)
def test_local_files_are_let_through(source: str) -> None:
    assert list(findings(source)) == []


def test_the_source_holds_to_it() -> None:
    paths = sorted(SRC.rglob("*.py"))
    assert len(paths) > 100
    found = {str(path): list(findings(path.read_text(encoding="utf-8"))) for path in paths}
    assert {path: uses for path, uses in found.items() if uses} == {}
