"""What stages report in, lines for people or for machines out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from endcap.contracts.reporting import Reporter
from endcap.workspace.redaction import redact


class TerminalReporter:
    """A progress bar and short sentences on a terminal; plain sentences where there is none."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("  {task.description:<28}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def event(self, event: str, **fields: object) -> None:
        """Print the event with its fields."""
        details = "  ".join(f"{name}={_short(value)}" for name, value in fields.items())
        line = f"  [bold]{redact(event)}[/]" + (f"  [dim]{escape(redact(details))}[/]" if details else "")
        self._console.print(line, highlight=False, soft_wrap=True)

    def metric(self, step: int, metric: str, value: float) -> None:
        """Metrics of epochs show as notes beside the bar; the report has them all."""

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Move the stage's bar; it goes when the stage ends."""
        if stage not in self._tasks:
            self._progress.start()
            self._tasks[stage] = self._progress.add_task(stage, total=total, note=note)
        self._progress.update(self._tasks[stage], completed=done, total=total, note=note)
        if done >= total:
            self._progress.remove_task(self._tasks.pop(stage))
            if not self._tasks:
                self._progress.stop()
            if note:
                self._console.print(f"  [dim]{escape(stage)}: {escape(redact(note))}[/]", highlight=False)


class JsonLinesReporter:
    """One JSON object a line on standard output, each with the same keys, for log collectors."""

    def __init__(self, *, run_id: str = "", request_id: str = "", experiment: str = "") -> None:
        """A name that is given here stays, whatever a stage calls the run."""
        self._logger = structlog.wrap_logger(
            structlog.WriteLogger(sys.stdout),
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
                structlog.processors.add_log_level,
                structlog.processors.JSONRenderer(default=str),
                _without_secrets,
            ],
        )
        self._always: dict[str, Any] = {"run_id": run_id, "request_id": request_id, "experiment": experiment}
        self._settled = {name for name, value in self._always.items() if value}

    def event(self, event: str, **fields: object) -> None:
        """A line without a metric; `run_id` and `experiment`, once said, stand in every later line."""
        for key in ("run_id", "experiment"):
            if key in fields:
                said = fields.pop(key)
                self._always |= {} if key in self._settled else {key: said}
        self._line(event, None, None, None, **fields)

    def metric(self, step: int, metric: str, value: float) -> None:
        """A line with one metric."""
        self._line("metric", step, metric, value)

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """A line when a stage ends."""
        if done >= total:
            self._line("stage finished", None, None, None, stage=stage, note=note)

    def _line(self, event: str, step: int | None, metric: str | None, value: float | None, **fields: object) -> None:
        self._logger.info(event, **self._always, step=step, metric=metric, value=value, **fields)


def reporter_for(log_format: str, console: Console, **named: str) -> Reporter:
    """The reporter that `--log-format` names; `auto` is text at a terminal, JSON lines elsewhere.

    `named` are names that JSON lines bear from the first on, such as `run_id`.
    """
    if log_format == "json" or (log_format == "auto" and not console.is_terminal):
        return JsonLinesReporter(**named)
    return TerminalReporter(console)


def _without_secrets(_logger: object, _method: str, line: Any) -> str:
    return redact(str(line))


def _short(value: object) -> str:
    if isinstance(value, Path):
        return os.path.relpath(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
