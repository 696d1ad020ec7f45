"""A page's own filters in, the Jinja environment that every page and report is made with out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

MINUS: Final = "\u2212"


def environment(filters: Mapping[str, Callable[[Any], Any]]) -> Environment:
    """Templates of this package, with `fixed`, `signed` and `num` beside the given filters.

    Autoescape is on for Markdown too: its readers render raw HTML.
    """
    made = Environment(
        loader=PackageLoader("endcap.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"fixed": fixed, "signed": signed, "num": lambda value: f"{value:,}", **filters}
    return made


def fixed(value: float) -> str:
    """Four decimals."""
    return f"{value:.4f}".replace("-", MINUS)


def signed(value: float) -> str:
    """Four decimals and the sign."""
    return f"{value:+.4f}".replace("-", MINUS)
