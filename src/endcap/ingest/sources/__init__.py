"""One module per format of a shop's exports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from endcap.contracts.errors import InputError
from endcap.ingest.sources import files
from endcap.ingest.sources.files import UnmappedFiles
from endcap.ingest.sources.ga4 import Ga4
from endcap.ingest.sources.google_retail import GoogleRetail
from endcap.ingest.sources.gorse import Gorse
from endcap.ingest.sources.guess_export import guessed_mapping
from endcap.ingest.sources.logs import Logs
from endcap.ingest.sources.mapping import load_mapping
from endcap.ingest.sources.online_retail import OnlineRetail
from endcap.ingest.sources.personalize import Personalize
from endcap.ingest.sources.protocol import Source
from endcap.ingest.sources.rees46 import Rees46
from endcap.ingest.sources.staging import Staging

_ALL: Final[tuple[Source, ...]] = (
    OnlineRetail(),
    UnmappedFiles(),
    Ga4(),
    GoogleRetail(),
    Personalize(),
    Gorse(),
    Rees46(),
    Staging(),
    Logs(),
)

SOURCES: Final[dict[str, Source]] = {source.name: source for source in _ALL}
"""Every source by the name under which the command line knows it; `files` can do nothing before it has a mapping."""

_MAPPING: Final = "mapping"
_SHARED_MODULES: Final = (
    "endcap.ingest.lines",
    "endcap.ingest.reader",
    "endcap.ingest.nested",
    "endcap.ingest.sources.cells",
    "endcap.ingest.sources.normalized",
    "endcap.ingest.sources.stated",
    "endcap.ingest.sources.event_words",
    "endcap.ingest.sources.mapped",
)


def make_source(name: str, options: Mapping[str, str] | None = None, path: Path | None = None) -> Source:
    """The source of a name. `files` takes the option `mapping`; without, it looks at the export at `path`.

    Raises InputError for an unknown source or option, a mapping that can't be used, or files that can be understood in
    more than one way.
    """
    given = dict(options or {})
    if name not in SOURCES:
        raise InputError(f"There is no source {name!r}; the sources are: {', '.join(SOURCES)}.")
    allowed = (_MAPPING,) if name == files.NAME else ()
    if unknown := [key for key in given if key not in allowed]:
        expected = f"its options are: {', '.join(allowed)}" if allowed else "it has none"
        raise InputError(f"Source {name} has no option {', '.join(unknown)}; {expected}.")
    if name != files.NAME:
        return SOURCES[name]
    if _MAPPING in given:
        return files.files(load_mapping(Path(given[_MAPPING])))
    return files.files(guessed_mapping(path)) if path is not None else SOURCES[name]


def configuration_of(source: Source) -> dict[str, Any]:
    """What, beside the code and the files, decides what becomes of the source's rows; fit for a digest."""
    configuration: dict[str, Any] = getattr(source, "configuration", {})
    return configuration


def modules_of(source: Source) -> tuple[str, ...]:
    """The modules whose code decides what becomes of the source's rows."""
    return (type(source).__module__, *_SHARED_MODULES)
