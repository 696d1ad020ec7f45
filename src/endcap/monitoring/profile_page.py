"""Profiles in, pages out: one HTML page per table version and an index, without network, scripts or raw user ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from endcap.contracts import columns as c
from endcap.contracts.events import BATCHES, DRIFT, DRIFT_DAYS, EVENTS, LANDED, QUARANTINE, TABLES
from endcap.evaluation.drawing import NUM_SERIES
from endcap.monitoring import drift_plots
from endcap.monitoring import profile_plots as plots
from endcap.monitoring.drift import ALL, JS, NULL_RATE, PSI, UNSEEN_RATE
from endcap.monitoring.profile import NUMBER, TIME, ColumnProfile, TableProfile, moment
from endcap.workspace import tables
from endcap.workspace.atomic import write_bytes, write_text
from endcap.workspace.layout import Workspace

FOLDER: Final = "profiles"
INDEX: Final = "index.html"
NUM_DAYS_HOURLY: Final = 7
NUM_BATCHES: Final = 60
"""Batches listed on a page; the newest come first."""

_WITH_ACCOUNT: Final = (EVENTS, LANDED, QUARANTINE, BATCHES)


def write_profile(workspace: Workspace, profile: TableProfile) -> Path:
    """Write the profile's page, the profile as JSON beside it, and the index; equal data give equal bytes."""
    folder = workspace.reports / FOLDER
    page = folder / f"{profile.label}.html"
    drift = read_drift(workspace) if profile.table == EVENTS else Drift()
    write_bytes(folder / f"{profile.label}.json", msgspec.json.encode(profile))
    write_text(page, render_page(profile, drift))
    write_text(folder / INDEX, render_index(workspace))
    return page


@dataclass(frozen=True)
class Drift:
    """What was measured: rows of `drift_days`, and of `drift` for the last `NUM_DAYS_HOURLY` days, in their order."""

    days: list[dict[str, Any]] = field(default_factory=list)
    hours: list[dict[str, Any]] = field(default_factory=list)


def read_drift(workspace: Workspace) -> Drift:
    """The newest numbers; empty when nothing was measured."""
    versions = {name: tables.table_version(workspace, name) for name in (DRIFT_DAYS, DRIFT)}
    if versions[DRIFT_DAYS] is None or versions[DRIFT] is None:
        return Drift()
    days = tables.read_table(workspace, DRIFT_DAYS, version=versions[DRIFT_DAYS]).to_pylist()
    last = sorted({str(row[c.EVENT_DATE]) for row in days})[-NUM_DAYS_HOURLY:]
    hours = tables.read_partitions(workspace, DRIFT, last, version=versions[DRIFT]).to_pylist()
    return Drift(days, hours)


def render_page(profile: TableProfile, drift: Drift) -> str:
    """One table's page. Drift is shown when any was measured."""
    context = {
        "profile": profile,
        "has_account": profile.account is not None and profile.table in _WITH_ACCOUNT,
        "num_batches": NUM_BATCHES,
        "num_series": NUM_SERIES,
        "by_day": plots.rows_by_day(profile.days) if profile.days else None,
        "session_plots": plots.sessions_plots(profile.sessions) if profile.sessions else (),
        "histograms": {column.name: plots.histogram(column) for column in profile.columns if len(column.bars) > 1},
        "psi": drift_plots.psi_by_day(drift.days),
        "mix": drift_plots.mix_by_day(drift.days),
        "by_column": drift_plots.columns_by_day(drift.days),
        "by_hour": drift_plots.by_hour(drift.hours),
        "lag_names": drift_plots.lag_names(drift.hours),
        "by_hour_and_column": drift_plots.columns_by_hour(drift.hours),
        "num_days_hourly": NUM_DAYS_HOURLY,
        "last_day": last_day(drift.days),
        "reference": drift.days[-1][c.REFERENCE_VERSION] if drift.days else "",
    }
    return environment().get_template("profile.html.jinja").render(context)


def render_index(workspace: Workspace) -> str:
    """All profiles of the workspace, those of the dataset in force first."""
    dataset = tables.current_dataset(workspace)
    versions = dataset.versions if dataset is not None else {}
    found = [_read(path) for path in sorted((workspace.reports / FOLDER).glob("*.json"))]
    current = {name: version for name, version in versions.items() if name in TABLES}
    by_label = {(profile.table, profile.version): profile for profile in found if profile is not None}
    context = {
        "dataset": dataset,
        "current": [(name, current[name], by_label.get((name, current[name]))) for name in TABLES if name in current],
        "others": [by_label[key] for key in sorted(by_label) if versions.get(key[0]) != key[1]],
    }
    return environment().get_template("profiles.html.jinja").render(context)


def _read(path: Path) -> TableProfile | None:
    """A profile written earlier; None when it can't be read, since it can be made again."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=TableProfile)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def last_day(days: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last measured day's columns with their statistics, the highest PSI first."""
    if not days:
        return []
    last = max(row[c.EVENT_DATE] for row in days)
    found: dict[str, dict[str, Any]] = {}
    for row in days:
        if row[c.EVENT_DATE] == last and row[c.STATISTIC] in _SHOWN:
            name = str(row[c.FEATURE])
            shown = found.setdefault(
                name, dict.fromkeys(_SHOWN) | {"feature": name, "count": row[c.COUNT], "day": last}
            )
            shown[row[c.STATISTIC]] = row[c.VALUE]
    compared = [row for row in found.values() if row[PSI] is not None or row[UNSEEN_RATE] is not None]
    return sorted(compared, key=lambda row: (-(row[PSI] or 0.0), row["feature"]))


_SHOWN: Final = (PSI, JS, NULL_RATE, UNSEEN_RATE)


def environment() -> Environment:
    """The templates of pages, with their filters."""
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("endcap.monitoring", "templates"), PackageLoader("endcap.evaluation", "templates")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "num": lambda value: f"{value:,}",
        "percent": _percent,
        "size": _size,
        "duration": duration,
        "moment": moment,
        "type_name": lambda name: "every type" if name == ALL else name,
    }
    environment.globals |= {
        "quantile": quantile_text,
        "LARGE_PSI": drift_plots.LARGE_PSI,
        "MODERATE_PSI": drift_plots.MODERATE_PSI,
    }
    return environment


def quantile_text(column: ColumnProfile, name: str) -> str:
    """A quantile as a reader wants it: a moment for times, the shortest number otherwise; a dash where there is none."""
    if name not in column.quantiles:
        return "\u2013"
    value = column.quantiles[name]
    if column.kind == TIME:
        return moment(value)
    return f"{value:,}" if column.kind != NUMBER or isinstance(value, int) else f"{value:,.6g}"


def _percent(share: float) -> str:
    """A share as percent; one that is not quite none or all says so."""
    if 0 < share < 0.0005:
        return "<\u202f0.1%"
    return ">\u202f99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.0f}\u202f{unit}" if unit == "B" else f"{num_bytes:.1f}\u202f{unit}"


def duration(seconds: float) -> str:
    """A duration in its largest fitting unit."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:,.1f}\u202f{unit}"
    return f"{seconds:.0f}\u202fs"
