"""pip's report of an installation in, an upper bound out for each package that refuses the given Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet


def upper_bounds(report: dict[str, Any], python: str) -> Iterator[str]:
    """A requirement such as `name<13.1` for each package of `report` whose Requires-Python excludes `python`."""
    for item in report["install"]:
        metadata = item["metadata"]
        if not SpecifierSet(metadata.get("requires_python") or "").contains(python):
            yield f"{metadata['name']}<{metadata['version']}"


if __name__ == "__main__":
    found = upper_bounds(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2])
    sys.stdout.write("".join(f"{bound}\n" for bound in found))
