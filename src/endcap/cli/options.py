"""Options that several groups of commands share."""

from __future__ import annotations

from datetime import datetime
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

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Configuration, such as experiment=baseline training.num_epochs=3."),
]

FirstDate = Annotated[
    datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], metavar="DATE", help="First date of the range.")
]
LastDate = Annotated[
    datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], metavar="DATE", help="Last date, included.")
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Worker processes; they share the memory.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would run, and why.")]
SessionGap = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1440,
        help="A longer pause between a user's events begins a new session; by default as chosen last, at first 30.",
    ),
]
MemoryLimit = Annotated[
    str, typer.Option(help="Memory that the query engines may use together; what doesn't fit goes to disk.")
]
HealthPort = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Answer /healthz and /metrics on this port while at work; 0: any free one."),
]
HealthHost = Annotated[str, typer.Option(help="Address of --health-port; a container's probes need 0.0.0.0.")]
Processes = Annotated[
    int,
    typer.Option(min=1, help="Processes of this machine that share each batch, one for each GPU; torchrun runs them."),
]
