"""Logs of requests and of feedback in, feedback as events and what was shown with what came of it out.

Requests: `request_id, user_key, request_time, release_digest, surface, item_ids[], scores[], positions[], propensities[],
experiment, variant`. Feedback: `request_id, item_id, event_type, event_time, value`. Users are hashed keys, which
`endcap.ingest.keys` knows.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.ingest import door, nested, reader
from endcap.ingest.sources import cells, normalized
from endcap.ingest.sources.event_words import folded, known_words
from endcap.ingest.sources.protocol import Batch
from endcap.ingest.sources.stated import REPEATED

NAME: Final = "logs"
UNKNOWN_REQUEST: Final = "unknown_request"
MAX_LATE_DAYS: Final = 30
"""Where files are named by day: how long after its request feedback may come."""

MISSING_REQUEST: Final = "missing_request"
REQUEST_REASONS: Final = (
    normalized.MALFORMED_ROW,
    MISSING_REQUEST,
    normalized.MISSING_USER,
    normalized.MISSING_TIME,
    normalized.UNREADABLE_TIME,
    normalized.TIME_OUT_OF_RANGE,
    REPEATED,
)
"""Why a row of requests may count for nothing, in the order in which they are tried."""
REQUESTS: Final = "requests"
FEEDBACK: Final = "feedback"
KNOWN: Final = (c.REQUEST_ID, c.USER_KEY, c.RELEASE_DIGEST, c.SURFACE)
"""What feedback learns from the request it answers."""

_DAY: Final = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})(?!\d)")
_LISTS: Final = ("item_ids", "scores", "positions", "propensities")
_PLAIN: Final = (
    "request_id", "user_key", "request_time", "release_digest", "surface", "experiment", "variant",
)  # fmt: skip
_REQUEST_SHAPE: Final[nested.Shape] = {**dict.fromkeys(_PLAIN), **{name: [None] for name in _LISTS}}
_FEEDBACK_SHAPE: Final[nested.Shape] = dict.fromkeys(("request_id", "item_id", "event_type", "event_time", "value"))
_NEEDED_OF_REQUESTS: Final = ("request_id", "user_key", "request_time", "item_ids")


@dataclass(frozen=True)
class Logs:
    """A folder with files or folders `requests…` and `feedback…`, Parquet or JSON-lines; a file of feedback is a batch."""

    name: str = NAME
    is_whole_export: bool = False
    reasons: tuple[str, ...] = (
        *normalized.REASONS[: normalized.REASONS.index(normalized.MISSING_USER)],
        UNKNOWN_REQUEST,
        *normalized.REASONS[normalized.REASONS.index(normalized.MISSING_USER) :],
    )

    known: Callable[[Backend], ir.Table] | None = field(default=None, repr=False, compare=False)
    """Requests that feedback may answer (`request_id, user_key, release_digest, surface`, each once), instead of those
    in its batch's files."""

    def batches(self, path: Path) -> list[Batch]:
        """See `Source.batches`. A batch's files are one of feedback and then those of the requests it may answer."""
        feedback, requests = log_files(path)
        return [
            Batch(f"{NAME}/{name}", (file, *(other for day, other in requests.items() if _may_answer(name, day))))
            for name, file in feedback.items()
        ]

    def knowing(self, known: Callable[[Backend], ir.Table]) -> Logs:
        """The source that joins feedback with the `known` requests."""
        return dataclasses.replace(self, known=known)

    def read(self, connection: Backend, batch: Batch) -> ir.Table:
        """See `Source.read`. Rows of feedback with the request's user, `null` where no request is known."""
        rows = _feedback_rows(connection, batch.paths[:1])
        if self.known is not None:
            known = self.known(connection)
        elif len(batch.paths) > 1:
            judged = _judged(_request_rows(connection, batch.paths[1:]))
            known = judged.filter(judged[c.REASON].isnull())
        else:
            return rows.mutate(**dict.fromkeys(KNOWN[1:], ibis.null("string")))
        return rows.left_join(known.select(*KNOWN), c.REQUEST_ID).drop("request_id_right")

    def judged_requests(self, connection: Backend, path: Path) -> ir.Table | None:
        """Rows of requests with `batch` and `reason`, null for those that count; None where the export has none.

        A request that stands twice counts once, where it is earliest.
        """
        _, requests = log_files(path)
        parts = [
            _request_rows(connection, [file]).mutate(**{c.BATCH: ibis.literal(f"{NAME}/{name}")})
            for name, file in requests.items()
        ]
        return _judged(ibis.union(*parts)) if parts else None

    def normalize(self, rows: ir.Table) -> ir.Table:
        """See `Source.normalize`."""
        word = cells.text(rows["event_type"])
        kept = {name: rows[name] for name in (c.REQUEST_ID, c.RELEASE_DIGEST, c.SURFACE)}
        fields = normalized.Fields(
            rows=rows,
            user=cells.id_text(rows["user_key"]),
            item=cells.id_text(rows["item_id"]),
            type_given=word,
            event_type=normalized.named_event_type(folded(word), known_words()),
            time_given=rows["event_time"],
            ts_us=_moment(rows["event_time"]),
            is_malformed=rows[reader.MALFORMED_LINE].notnull(),
            value_given=cells.text(rows["value"]),
            value=cells.number(rows["value"]),
            properties=kept,
            more_reasons=((rows["user_key"].isnull(), UNKNOWN_REQUEST),),
        )
        return normalized.normalize(fields)

    def catalog(self, connection: Backend, path: Path) -> ir.Table | None:
        """See `Source.catalog`: logs say nothing about products."""
        del connection, path
        return None


def log_files(path: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Files of feedback and of requests by relative name: of each the first part that begins with either word tells.

    A folder that is named by a day stands before the names, as if its parent had been given.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no folder. Give the folder that holds {REQUESTS}… and {FEEDBACK}….")
    prefix = f"{path.name}/" if _DAY.search(path.name) else ""
    found: dict[str, dict[str, Path]] = {FEEDBACK: {}, REQUESTS: {}}
    for name, file in door.parts(path, NAME).items():
        words = [word for part in name.split("/") for word in found if part.startswith(word)]
        if words:
            found[words[0]][prefix + name] = file
    if not found[FEEDBACK] and not found[REQUESTS]:
        raise InputError(f"{path} holds neither {REQUESTS}… nor {FEEDBACK}…; expected files or folders of these names.")
    return found[FEEDBACK], found[REQUESTS]


def _day(name: str) -> date | None:
    found = _DAY.search(name)
    try:
        return date(*(int(part) for part in found.groups())) if found else None
    except ValueError:
        return None


def _may_answer(feedback: str, requests: str) -> bool:
    """Whether feedback of one file may be about requests of another, by the days in their names.

    Without this every day's requests would touch the feedback of all days before.
    """
    answered, asked = _day(feedback), _day(requests)
    return answered is None or asked is None or timedelta(0) <= answered - asked <= timedelta(days=MAX_LATE_DAYS)


def _request_rows(connection: Backend, paths: list[Path] | tuple[Path, ...]) -> ir.Table:
    for path in paths:
        door.check_columns(path, door.column_names(path), [[name] for name in _NEEDED_OF_REQUESTS], NAME)
    return nested.read_shaped(connection, paths, _REQUEST_SHAPE)


def _feedback_rows(connection: Backend, paths: list[Path] | tuple[Path, ...]) -> ir.Table:
    for path in paths:
        needed = [[name] for name in _FEEDBACK_SHAPE if name != "value"]
        door.check_columns(path, door.column_names(path), needed, NAME)
    return nested.read_shaped(connection, paths, _FEEDBACK_SHAPE)


def _judged(rows: ir.Table) -> ir.Table:
    """Rows of requests with texts trimmed, `ts_us` and a `reason`, null for those that count."""
    texts = {name: cells.text(rows[name]) for name in _PLAIN}
    named = rows.mutate(**texts, **{c.TS_US: _moment(rows["request_time"])})
    reason = ibis.cases(
        (named[reader.MALFORMED_LINE].notnull(), normalized.MALFORMED_ROW),
        (named[c.REQUEST_ID].isnull(), MISSING_REQUEST),
        (named[c.USER_KEY].isnull(), normalized.MISSING_USER),
        (named["request_time"].isnull(), normalized.MISSING_TIME),
        (named[c.TS_US].isnull(), normalized.UNREADABLE_TIME),
        (~named[c.TS_US].between(cells.FIRST_US, cells.END_US - 1), normalized.TIME_OUT_OF_RANGE),
        else_=ibis.null("string"),
    )
    named = named.mutate(**{c.REASON: reason})
    order = [named[name] for name in (c.TS_US, c.BATCH, c.ROW_NUMBER) if name in named.columns]
    first = ibis.window(group_by=[named[c.REASON], named[c.REQUEST_ID]], order_by=order)
    placed = named.mutate(is_again=ibis.row_number().over(first) > 0)
    again = (placed[c.REASON].isnull() & placed["is_again"]).ifelse(REPEATED, placed[c.REASON])
    return placed.mutate(**{c.REASON: again}).drop("is_again")


def _moment(value: ir.Value) -> ir.IntegerValue:
    """A moment as text, or as microseconds since 1970."""
    counted = cells.text(value).re_search(r"^[0-9]+$").fill_null(False)
    result: ir.IntegerValue = counted.ifelse(cells.moment_us(value, "us"), cells.moment_us(value))
    return result


def shown(requests: ir.Table) -> ir.Table:
    """One row per product of each of the requests, which count: `item_id`, `position`, `score` and `propensity`.

    A product or a position that stands twice in one request counts where it stands first. Positions that aren't logged
    count from 0.
    """
    place = ibis.range(0, requests["item_ids"].length().fill_null(0)).unnest()
    rows = requests.mutate(place=place)
    position = cells.whole(cells.number(rows["positions"][rows["place"]]))
    rows = rows.mutate(
        **{
            c.ITEM_ID: cells.text(rows["item_ids"][rows["place"]]),
            c.POSITION: ibis.coalesce(position, rows["place"]).cast("int64"),
            c.SCORE: cells.number(rows["scores"][rows["place"]]),
            c.PROPENSITY: cells.number(rows["propensities"][rows["place"]]),
        }
    )
    rows = rows.filter(rows[c.ITEM_ID].notnull())
    for column in (c.ITEM_ID, c.POSITION):
        same = ibis.window(group_by=[rows[c.REQUEST_ID], rows[column]], order_by=rows["place"])
        rows = rows.mutate(again=ibis.row_number().over(same)).filter(lambda t: t["again"] == 0).drop("again")
    names = (c.BATCH, c.REQUEST_ID, c.USER_KEY, c.ITEM_ID, c.TS_US, c.POSITION, c.SCORE, c.PROPENSITY)
    return rows.select(*names, c.SURFACE, c.RELEASE_DIGEST, c.EXPERIMENT, c.VARIANT)
