"""The documentation's pages in, an error out when one is missing, unlisted, or links to a file that isn't there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


def listed_pages(nav: list[Any] | dict[str, Any] | str) -> Iterator[str]:
    """File names in mkdocs' `nav`, in order, whatever the nesting."""
    if isinstance(nav, str):
        yield nav
        return
    for entry in nav.values() if isinstance(nav, dict) else nav:
        yield from listed_pages(entry)


def problems() -> Iterator[str]:
    """One sentence for each page that is missing or unlisted and each link that leads nowhere."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = set(listed_pages(nav))
    present = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    yield from (f"mkdocs.yml lists {name}, but there is no docs/{name}." for name in sorted(listed - present))
    yield from (f"docs/{name} is in no menu: list it in mkdocs.yml." for name in sorted(present - listed))
    for page in [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                yield f"{page.relative_to(ROOT)} links to {target}, which isn't there."


def main() -> int:
    """Exit code 1, with the problems on standard error, when there are any."""
    found = list(problems())
    for problem in found:
        sys.stderr.write(f"docs: {problem}\n")
    if not found:
        sys.stdout.write("docs: every page is listed, every link to a file leads somewhere\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
