"""Names of steps in, the steps out, in the order of the data: events, catalog, daily aggregates, windows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

from endcap.contracts.errors import InputError
from endcap.features.windows import REPURCHASE_DAYS
from endcap.flows.feature_steps import DAILY_STEP, WINDOWS_STEP, Daily, Windows
from endcap.flows.partitions import Step
from endcap.flows.table_steps import CATALOG_STEP, EVENTS_STEP, Catalog, Events
from endcap.ingest.quality import IngestSettings

STEPS: Final = (EVENTS_STEP, CATALOG_STEP, DAILY_STEP, WINDOWS_STEP)
FEATURE_STEPS: Final = (DAILY_STEP, WINDOWS_STEP)


def make_steps(names: Sequence[str], settings: IngestSettings) -> list[Step]:
    """The steps of these names, in the order of the data whatever order they come in; none stands for all.

    With the windows comes what they look back at: daily aggregates of as many days before the range as they need.
    Raises InputError for a name that isn't one.
    """
    for name in names:
        if name not in STEPS:
            close = difflib.get_close_matches(name, STEPS, n=1)
            nearest = f" Did you mean {close[0]}?" if close else ""
            raise InputError(f"There is no step {name!r}; the steps are: {', '.join(STEPS)}.{nearest}")
    wanted = set(names or STEPS)
    steps: dict[str, Step] = {
        EVENTS_STEP: Events(settings),
        CATALOG_STEP: Catalog(),
        DAILY_STEP: Daily(lookback_days=REPURCHASE_DAYS if WINDOWS_STEP in wanted else 0),
        WINDOWS_STEP: Windows(),
    }
    return [step for name, step in steps.items() if name in wanted]
