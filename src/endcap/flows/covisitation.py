"""The workspace's events in, a folder of which products go together out: seen, seen next, bought together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Final, Literal

import ibis.expr.types as ir
import pyarrow.parquet as pq

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.contracts.events import EVENTS, ITEMS, US_PER_DAY
from endcap.contracts.reporting import Reporter
from endcap.engines import duckdb
from endcap.features.covisitation import OTHER_ITEM_ID, bought_together, covisits, next_items
from endcap.features.groups import by_group
from endcap.workspace import tables
from endcap.workspace.atomic import publish_folder
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import RUN_MANIFEST, Run

_STAGE: Final = "products that go together"
_EVENT_COLUMNS: Final = (
    c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.TS_US, c.SESSION_ID, c.BASKET_ID,
)  # fmt: skip
_EPOCH: Final = date(1970, 1, 1)


@dataclass(frozen=True)
class CovisitationSettings:
    """What counts, and how much of it is kept."""

    before: date | None = None
    """What happened before this day (UTC) counts; None: everything."""
    window_days: float | None = None
    """So many days back; None: all."""
    half_life_days: float | None = None
    within_days: float | None = None
    """Bought by the same customer so many days apart at most; None: in the same basket."""
    min_support: int = 2
    top_n: int = 50
    by: Literal["item", "group"] = "item"
    """`group`: the variants of one product count as one."""

    def __post_init__(self) -> None:
        """Refuse what can't be counted; all problems at once."""
        days = {"window-days": self.window_days, "half-life-days": self.half_life_days, "within-days": self.within_days}
        problems = [
            f"{name} is {value}; expected more than 0"
            for name, value in days.items()
            if value is not None and value <= 0
        ]
        counts = {"min-support": self.min_support, "top-n": self.top_n}
        problems += [f"{name} is {count}; expected 1 or more" for name, count in counts.items() if count < 1]
        if problems:
            raise InputError(f"That can't be counted: {'; '.join(problems)}.")


def build_covisitation(
    workspace: Workspace,
    out: Path,
    settings: CovisitationSettings,
    report: Reporter,
    *,
    memory_mb: int = duckdb.DEFAULT_MEMORY_MB,
) -> tuple[dict[str, int], dict[str, float]]:
    """Write `covisits`, `next_items` and `bought_together` (Parquet) with `manifest.json` into `out`: rows and seconds.

    `out` appears whole or not at all. Raises InputError when it exists, or nothing was ingested.
    """
    dataset = tables.current_dataset(workspace)
    if dataset is None:
        raise InputError(f"{workspace.path} holds no data yet. Fill it with: endcap ingest --source files FOLDER")
    run = Run(workspace, "covisitation")
    num_rows: dict[str, int] = {}
    with publish_folder(out) as folder, duckdb.session(workspace, memory_mb=memory_mb) as connection:
        events = duckdb.scan_table(connection, workspace, EVENTS, columns=_EVENT_COLUMNS)
        as_of_us = _as_of_us(connection.to_pyarrow(events[c.TS_US].max()).as_py() or 0, settings.before)
        if settings.window_days is not None:
            events = events.filter(events[c.TS_US] >= as_of_us - round(settings.window_days * US_PER_DAY))
        if settings.by == "group":
            items = duckdb.scan_table(connection, workspace, ITEMS, columns=(c.ITEM_ID, c.GROUP_ID))
            events = by_group(events, items)
        made = _tables(events, as_of_us, settings)
        for place, (name, make) in enumerate(made.items()):
            report.progress(_STAGE, place, len(made), name)
            with run.stage(name):
                rows = make().order_by(c.ITEM_ID, "rank").select(c.ITEM_ID, OTHER_ITEM_ID, "num", "weight", "rank")
                connection.to_parquet(rows, folder / f"{name}.parquet")
            num_rows[name] = pq.read_metadata(folder / f"{name}.parquet").num_rows
        report.progress(_STAGE, len(made), len(made))
        manifest = run.finish(
            data_versions=dataset.versions,
            dataset_version=dataset.number,
            configuration={**asdict(settings), "before": str(settings.before or ""), "as_of_us": as_of_us},
            metrics={f"num_rows_{name}": number for name, number in num_rows.items()},
        )
        shutil.copy(manifest, folder / RUN_MANIFEST)
    return num_rows, run.timings_s


def _as_of_us(last_us: int, before: date | None) -> int:
    return last_us + 1 if before is None else (before - _EPOCH).days * US_PER_DAY


def _tables(events: ir.Table, as_of_us: int, settings: CovisitationSettings) -> dict[str, Callable[[], ir.Table]]:
    half_life, support, top_n = settings.half_life_days, settings.min_support, settings.top_n
    return {
        "covisits": lambda: covisits(
            events, as_of_us, half_life_days=half_life, min_support=support, top_n=top_n
        ),
        "next_items": lambda: next_items(
            events, as_of_us, half_life_days=half_life, min_support=support, top_n=top_n
        ),
        "bought_together": lambda: bought_together(
            events, as_of_us, within_days=settings.within_days, half_life_days=half_life, min_support=support, top_n=top_n
        ),
    }  # fmt: skip
