"""One module per format of a shop's exports."""

from __future__ import annotations

from typing import Final

from endcap.ingest.sources.online_retail import OnlineRetail
from endcap.ingest.sources.protocol import Source

_ALL: Final[tuple[Source, ...]] = (OnlineRetail(),)

SOURCES: Final[dict[str, Source]] = {source.name: source for source in _ALL}
"""Every source by the name under which the command line knows it."""
