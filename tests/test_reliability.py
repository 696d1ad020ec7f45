"""The page of promises names tests that there are, and none of the server's rows is without one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| ([A-Z]\d+) \| (.*) \|$", PAGE, re.MULTILINE))
SERVER_ROWS = [f"F{n}" for n in range(1, 8)] + [f"L{n}" for n in range(1, 5)] + [f"B{n}" for n in (*range(1, 8), 9)]
SERVER_ROWS += ["S1", "S2", "S3", "S7", "S8", "S9", "S13"]


def test_no_row_is_missing() -> None:
    assert list(ROWS) == SERVER_ROWS


@pytest.mark.parametrize("row", SERVER_ROWS)
def test_the_tests_of_a_row_are_there(row: str) -> None:
    named = re.findall(r"`(tests/[^`]+)`", ROWS[row])
    assert named
    for place in named:
        file, _, name = place.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), place
