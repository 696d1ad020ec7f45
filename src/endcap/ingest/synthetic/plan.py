"""Options of a made-up shop in, checked sizes out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, Literal

from endcap.contracts.errors import InputError
from endcap.contracts.events import US_PER_DAY

Format = Literal["parquet", "csv", "jsonl"]
FORMATS: Final[tuple[Format, ...]] = ("parquet", "csv", "jsonl")

_SCALES: Final = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_COUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)")

_EVENTS_PER_USER: Final = 40
_EVENTS_PER_ITEM: Final = 400
_MIN_USERS, _MIN_ITEMS, _MAX_DEFAULT_ITEMS = 100, 100, 200_000
MAX_ITEMS: Final = 10_000_000
MAX_DAYS: Final = 3_660


def parse_count(text: str) -> int:
    """The number that `20M`, `1.5k` or `500000` means. Raises InputError for anything else, and below 1."""
    match = _COUNT.fullmatch(text.strip().replace("_", "").replace(",", ""))
    if match is None:
        raise InputError(f"{text!r} is no count; expected a number such as 500000, 500k or 20M.")
    unit = match[2].lower() if match[2] in "kK" else match[2].upper()
    count = round(float(match[1]) * _SCALES[unit])
    if count < 1:
        raise InputError(f"{text!r} is no count; expected 1 or more.")
    return count


@dataclass(frozen=True)
class Plan:
    """What shop to make up. Equal plans give equal files."""

    num_events: int
    """Distinct events, reached to within a few in a thousand; duplicates come on top."""
    num_days: int = 30
    num_users: int | None = None
    """People; by default one for every 40 events."""
    num_items: int | None = None
    """Products that ever stand in the catalog; by default one for every 400 events."""
    seed: int = 1
    start: date = date(2026, 1, 5)
    """First day, UTC; the default is a Monday."""
    duplicate_share: float = 0.01
    """Rows that repeat an event, as a share of the distinct events."""
    late_share: float = 0.005
    """Share of events that stand in the file of a later day than their own."""
    file_format: Format = "parquet"

    def __post_init__(self) -> None:
        """Refuse sizes that make no shop; all problems at once."""
        counts = {"events": self.num_events, "users": self.users, "items": self.items}
        problems = [f"{name} is {count}; expected 1 or more" for name, count in counts.items() if count < 1]
        if not 1 <= self.num_days <= MAX_DAYS:
            problems.append(f"days is {self.num_days}; expected 1 to {MAX_DAYS}")
        if self.items > MAX_ITEMS:
            problems.append(f"items is {self.items}; expected at most {MAX_ITEMS}")
        if self.seed < 0:
            problems.append(f"seed is {self.seed}; expected 0 or more")
        shares = {"duplicates": self.duplicate_share, "late": self.late_share}
        problems += [f"{name} is {share}; expected 0 to 0.5" for name, share in shares.items() if not 0 <= share <= 0.5]
        if self.file_format not in FORMATS:
            problems.append(f"format is {self.file_format!r}; expected one of {', '.join(FORMATS)}")
        if problems:
            raise InputError(f"A shop like that can't be made up: {'; '.join(problems)}.")

    @property
    def users(self) -> int:
        """Number of people."""
        return max(_MIN_USERS, self.num_events // _EVENTS_PER_USER) if self.num_users is None else self.num_users

    @property
    def items(self) -> int:
        """Number of products."""
        if self.num_items is not None:
            return self.num_items
        return min(max(_MIN_ITEMS, self.num_events // _EVENTS_PER_ITEM), _MAX_DEFAULT_ITEMS)

    @property
    def start_us(self) -> int:
        """The first moment."""
        return int(datetime(self.start.year, self.start.month, self.start.day, tzinfo=UTC).timestamp()) * 1_000_000

    @property
    def end_us(self) -> int:
        """The first moment after the last day."""
        return self.start_us + self.num_days * US_PER_DAY
