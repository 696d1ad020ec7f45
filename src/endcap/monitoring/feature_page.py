"""What a FeatureConfig makes of some data in, one page with plots out, without network or scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from endcap.evaluation.drawing import Plot
from endcap.features.described import Described, Encoded, FeatureCheck
from endcap.monitoring.feature_plots import drawn
from endcap.monitoring.profile_page import environment
from endcap.workspace.atomic import write_text

PAGE: Final = "features.html"


def write_page(found: FeatureCheck, folder: Path) -> Path:
    """Write the page into `folder`, which is made if need be; equal data give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / PAGE, render_page(found))
    return folder / PAGE


def render_page(found: FeatureCheck) -> str:
    """One page: what goes in and what comes out of every column, in the order of the configuration."""
    plots = {
        (column.side, column.name): {
            "before": drawn(column.before, f"{column.side}-{column.name}", "as it is") if column.before else None,
            "after": [plot for encoded in column.becomes for plot in _after(column, encoded)],
        }
        for column in found.columns
    }
    return environment().get_template("features.html.jinja").render(found=found, plots=plots)


def _after(column: Described, encoded: Encoded) -> list[Plot]:
    steps = " → ".join(encoded.steps)
    return [
        drawn(
            found,
            f"{column.side}-{encoded.name}-{place}",
            f"{steps}: {found.what}" if len(encoded.after) > 1 else steps,
        )
        for place, found in enumerate(encoded.after)
    ]
