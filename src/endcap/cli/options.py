"""Options that several groups of commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class LogFormat(StrEnum):
    """How progress is told."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-w", envvar="ENDCAP_WORKSPACE", help="The workspace's folder.")
]
LogFormatOption = Annotated[
    LogFormat,
    typer.Option(
        "--log-format",
        help="text: a progress bar; json: JSON lines on standard output; auto: text at a terminal, else JSON lines.",
    ),
]
