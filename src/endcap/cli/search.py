"""What `endcap search` does."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.flows.search import SearchResult, search
from endcap.workspace.layout import Workspace
from endcap.workspace.search_space import parse_search_space

_NUM_SHOWN = 10


def run_search(overrides: list[str], path: Path, log_format: str, num_trials: int, name: str) -> None:
    """Search, and say which settings did best and how to train with them."""
    space = parse_search_space(overrides)
    workspace = Workspace.open(path)
    console = Console()
    report = reporter_for(log_format, console)
    conf = path / "conf"
    found = search(
        workspace, space, num_trials=num_trials, name=name, report=report, conf=conf if conf.is_dir() else None
    )
    if isinstance(report, JsonLinesReporter):
        best = {"event": "search ended", "value": found.best.value, "overrides": found.overrides}
        sys.stdout.write(msgspec.json.encode({**best, "num_trials": len(found.trials)}).decode() + "\n")
        return
    _show(console, found, path)


def _show(console: Console, found: SearchResult, path: Path) -> None:
    console.print(f"{found.metric}; the best of {len(found.trials)} trials:")
    keys = list(found.best.settings)
    table = Table("trial", "value", "epochs", *keys, "")
    ranked = sorted(found.trials, key=lambda trial: (trial.state != "complete", -(trial.value or 0.0)))
    for trial in ranked[:_NUM_SHOWN]:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        settings = [_cell(trial.settings.get(key)) for key in keys]
        state = "" if trial.state == "complete" else trial.state
        table.add_row(str(trial.number), value, str(trial.num_epochs), *settings, state)
    console.print(table)
    failed = [trial for trial in found.trials if trial.error]
    if failed:
        console.print(f"{len(failed)} trials failed, the first one: {failed[0].error}", soft_wrap=True)
    console.print(f"Every trial: {found.folder / 'trials.json'}", soft_wrap=True)
    console.print(f"Train it:    endcap train -w {path} {shlex.join(found.overrides)}", soft_wrap=True)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
