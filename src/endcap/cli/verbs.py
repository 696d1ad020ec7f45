"""The order of the verbs in `endcap --help`: that of the data, then what is done now and then."""

from __future__ import annotations

from typing import Any, Final

from typer.core import TyperGroup

ORDER: Final = (
    "init", "data", "ingest", "profile", "drift", "features", "backfill", "train", "submit", "quicktest", "search", "evaluate", "compare", "config", "releases",
    "serve", "tokens", "lake", "synth", "demo",
)  # fmt: skip


class InOrderOfTheData(TyperGroup):
    """Lists commands and groups of commands as `ORDER` has them; others follow as they were added."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
