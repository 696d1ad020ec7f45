"""A job's configuration with ${NAME} in it, and the environment in; the configuration with the values, on standard output, out."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template


def rendered(text: str, values: Mapping[str, str]) -> str:
    """The text with every ${NAME} replaced. Raises KeyError naming those that have no value, or an empty one."""
    template = Template(text)
    names = {match["named"] or match["braced"] for match in Template.pattern.finditer(_without_comments(text))} - {None}
    missing = sorted(name for name in names if not values.get(name))
    if missing:
        raise KeyError(", ".join(missing))
    return template.safe_substitute({name: values[name] for name in names})


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def main(arguments: list[str]) -> int:
    """Exit code 2 where something is missing."""
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        sys.stderr.write("render.py needs one file, such as deploy/vertex/l4.yaml\n")
        return 2
    try:
        sys.stdout.write(rendered(Path(arguments[0]).read_text(encoding="utf-8"), os.environ))
    except KeyError as error:
        sys.stderr.write(f"{arguments[0]} needs these in the environment: {error.args[0]}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
