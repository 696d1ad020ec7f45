"""Figures and ratios of one benchmark in, a table for people and JSON for machines out."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Figure = str | int | float


@dataclass
class Report:
    """Rows of figures (their units in the keys) and ratios, each turned so that over 1 is better than the peer."""

    title: str
    libraries: Sequence[str]
    rows: list[dict[str, Figure]] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    peer_libraries: Mapping[str, str] = field(default_factory=dict)

    def add(self, work: str, system: str, size: str, **figures: Figure) -> None:
        """Add what one system did on one piece of work."""
        self.rows.append({"work": work, "system": system, "size": size, **figures})

    def print(self) -> None:
        """Print one table per kind of work and the ratios."""
        print(f"\n{self.title}")
        machine = describe_machine(self.libraries)
        print(f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['cpu']}, {machine['measured_at']}")
        by_columns: dict[tuple[str, ...], list[dict[str, Figure]]] = {}
        for row in self.rows:
            by_columns.setdefault(tuple(row), []).append(row)
        for columns, rows in by_columns.items():
            _print_table(columns, [[_shown(row[column]) for column in columns] for row in rows])
        if self.ratios:
            ratios = [[key, f"{value:.2f}"] for key, value in self.ratios.items()]
            _print_table(("ratio, over 1 is better than the peer", ""), ratios)

    def write_json(self, path: Path) -> None:
        """Write machine, rows and ratios."""
        machine = {**describe_machine(self.libraries), "peer_libraries": dict(self.peer_libraries)}
        content = {"machine": machine, "rows": self.rows, "ratios": self.ratios}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def describe_machine(libraries: Sequence[str]) -> dict[str, Any]:
    """Cores, memory, processor and library versions of this machine."""
    versions: dict[str, str] = {"python": platform.python_version()}
    for library in libraries:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "absent"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "cpu": _cpu_name(),
        "libraries": versions,
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _shown(figure: Figure) -> str:
    if isinstance(figure, float):
        return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:,.2f}" if abs(figure) >= 1 else f"{figure:.4f}"
    return f"{figure:,}" if isinstance(figure, int) else figure


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    print()
    for cells in (columns, ["-" * width for width in widths], *rows):
        print(
            "  ".join(
                cell.rjust(width) if i > 2 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
        )
