"""Profiles in, pages out: one HTML page per table version and an index, without network, scripts or raw user ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from endcap.contracts import columns as c
from endcap.contracts.events import BATCHES, DRIFT, EVENTS, LANDED, QUARANTINE, TABLES
from endcap.evaluation.drawing import NUM_SERIES
from endcap.monitoring import profile_plots as plots
from endcap.monitoring.drift import ALL, DAY_PREFIX, JS, NULL_RATE, PSI, UNSEEN_RATE
from endcap.monitoring.profile import NUMBER, TIME, ColumnProfile, TableProfile, moment
from endcap.workspace import tables
from endcap.workspace.atomic import write_bytes, write_text
from endcap.workspace.layout import Workspace

FOLDER: Final = "profiles"
INDEX: Final = "index.html"
NUM_BATCHES: Final = 60
"""Batches listed on a page; the newest come first."""

_WITH_ACCOUNT: Final = (EVENTS, LANDED, QUARANTINE, BATCHES)


def write_profile(workspace: Workspace, profile: TableProfile) -> Path:
    """Write the profile's page, the profile as JSON beside it, and the index; equal data give equal bytes."""
    folder = workspace.reports / FOLDER
    page = folder / f"{profile.label}.html"
    drift = drift_rows(workspace) if profile.table == EVENTS else []
    write_bytes(folder / f"{profile.label}.json", msgspec.json.encode(profile))
    write_text(page, render_page(profile, drift))
    write_text(folder / INDEX, render_index(workspace))
    return page


def drift_rows(workspace: Workspace) -> list[dict[str, Any]]:
    """The newest numbers of the table `drift`, in its order; empty when nothing was measured."""
    version = tables.table_version(workspace, DRIFT)
    return [] if version is None else tables.read_table(workspace, DRIFT, version=version).to_pylist()


def render_page(profile: TableProfile, drift: list[dict[str, Any]]) -> str:
    """One table's page. `drift` holds rows of the drift table; they are shown when there are any."""
    context = {
        "profile": profile,
        "has_account": profile.account is not None and profile.table in _WITH_ACCOUNT,
        "num_batches": NUM_BATCHES,
        "num_series": NUM_SERIES,
        "by_day": plots.rows_by_day(profile.days) if profile.days else None,
        "session_plots": plots.sessions_plots(profile.sessions) if profile.sessions else (),
        "histograms": {column.name: plots.histogram(column) for column in profile.columns if len(column.bars) > 1},
        "psi": plots.psi_by_day(drift) if drift else None,
        "other_drift": plots.other_drift(drift) if drift else (),
        "last_day": last_day(drift),
        "reference": drift[-1][c.REFERENCE_VERSION] if drift else "",
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


def last_day(drift: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last measured day's columns with their statistics, the highest PSI first."""
    if not drift:
        return []
    last = max(row[c.EVENT_DATE] for row in drift)
    found: dict[str, dict[str, Any]] = {}
    for row in drift:
        feature = str(row[c.FEATURE])
        if row[c.EVENT_DATE] == last and feature.startswith(DAY_PREFIX) and row[c.STATISTIC] in _SHOWN:
            name = feature.removeprefix(DAY_PREFIX)
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
    environment.globals |= {"quantile": quantile_text, "LARGE_PSI": plots.LARGE_PSI, "MODERATE_PSI": plots.MODERATE_PSI}
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
