"""Logs of requests and of feedback in, feedback as events and what was shown with what came of it out.

Requests: `request_id, user_key, request_time, release_digest, surface, item_ids[], scores[], positions[], propensities[],
experiment, variant`. Feedback: `request_id, item_id, event_type, event_time, value`. Users are hashed keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts import events as contract
from endcap.contracts.errors import InputError
from endcap.ingest import door, nested, reader
from endcap.ingest.sources import cells, normalized
from endcap.ingest.sources.event_words import folded, known_words
from endcap.ingest.sources.protocol import Batch

NAME: Final = "logs"
UNKNOWN_REQUEST: Final = "unknown_request"
MAX_LATE_DAYS: Final = 30
"""Where files are named by day: how long after its request feedback may come."""

_REQUESTS: Final = "requests"
_FEEDBACK: Final = "feedback"
_DAY: Final = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})(?!\d)")
_LISTS: Final = ("item_ids", "scores", "positions", "propensities")
_PLAIN: Final = (
    "request_id", "user_key", "request_time", "release_digest", "surface", "experiment", "variant",
)  # fmt: skip
_REQUEST_SHAPE: Final[nested.Shape] = {**dict.fromkeys(_PLAIN), **{name: [None] for name in _LISTS}}
_FEEDBACK_SHAPE: Final[nested.Shape] = dict.fromkeys(("request_id", "item_id", "event_type", "event_time", "value"))
_NEEDED_OF_REQUESTS: Final = ("request_id", "user_key", "request_time", "item_ids")
_COUNTS: Final = ("num_clicks", "num_carts", "num_purchases")
_MONEY: Final = f"decimal({contract.MONEY_PRECISION}, {contract.MONEY_SCALE})"
_CLICKS: Final = (contract.SELECT_ITEM, contract.VIEW_ITEM)


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

    def batches(self, path: Path) -> list[Batch]:
        """See `Source.batches`. A batch's files are one of feedback and then those of the requests it may answer."""
        feedback, requests = _log_files(path)
        return [
            Batch(f"{NAME}/{name}", (file, *(other for day, other in requests.items() if _may_answer(name, day))))
            for name, file in feedback.items()
        ]

    def read(self, connection: Backend, batch: Batch) -> ir.Table:
        """See `Source.read`. Rows of feedback with the request's user, `null` where no request is known."""
        rows = _feedback_rows(connection, batch.paths[:1])
        if len(batch.paths) == 1:
            return rows.mutate(
                user_key=ibis.null("string"), release_digest=ibis.null("string"), surface=ibis.null("string")
            )
        requests = _distinct_requests(_request_rows(connection, batch.paths[1:]))
        known = requests.select("request_id", "user_key", "release_digest", "surface")
        return rows.left_join(known, "request_id").drop("request_id_right")

    def normalize(self, rows: ir.Table) -> ir.Table:
        """See `Source.normalize`."""
        word = cells.text(rows["event_type"])
        names = ("request_id", "item_id", "event_type", "event_time", "value", reader.MALFORMED_LINE)
        kept = {name: rows[name] for name in ("request_id", "release_digest", "surface")}
        fields = normalized.Fields(
            rows=rows,
            user=cells.id_text(rows["user_key"]),
            item=cells.id_text(rows["item_id"]),
            type_given=word,
            event_type=normalized.named_event_type(folded(word), known_words()),
            time_given=rows["event_time"],
            ts_us=_moment(rows["event_time"]),
            is_malformed=rows[reader.MALFORMED_LINE].notnull(),
            content={name: rows[name] for name in names},
            value_given=cells.text(rows["value"]),
            value=cells.number(rows["value"]),
            properties=cells.json_object(kept),
            more_reasons=((rows["user_key"].isnull(), UNKNOWN_REQUEST),),
        )
        return normalized.normalize(fields)

    def catalog(self, connection: Backend, path: Path) -> ir.Table | None:
        """See `Source.catalog`: logs say nothing about products."""
        del connection, path
        return None

    def impressions(self, connection: Backend, path: Path) -> ir.Table:
        """One row per product shown: the columns of IMPRESSIONS_TABLE but `event_date`, unique by its key.

        Feedback is joined on request and product, however late; a row of it that stands twice counts once. A request
        that stands twice counts once; a product or a position that stands twice in one request, where it stands first.
        Products of a request without a moment, an id or a user can't be placed and are left out. Positions that aren't
        logged count from 0.
        """
        feedback, requests = _log_files(path)
        if not requests:
            raise InputError(f"{path} holds no {_REQUESTS}…; expected the log of requests beside the feedback.")
        shown = _shown(_distinct_requests(_request_rows(connection, list(requests.values()))))
        names = [name for name in contract.IMPRESSIONS_TABLE.schema.names if name != c.EVENT_DATE]
        if not feedback:
            return shown.mutate(**dict.fromkeys(_COUNTS, ibis.literal(0, "int64")), value=ibis.null(_MONEY)).select(
                *names
            )
        joined = shown.left_join(self._outcomes(connection, list(feedback.values())), [c.REQUEST_ID, c.ITEM_ID])
        counts = {name: joined[name].fill_null(0).cast("int64") for name in _COUNTS}
        return joined.select(**{name: counts.get(name, joined[name]) for name in names})

    def _outcomes(self, connection: Backend, files: list[Path]) -> ir.Table:
        """What came of each product of each request: good feedback, equal rows once."""
        raw = _feedback_rows(connection, files).mutate(
            # Joined by request later on: whose it is doesn't matter here.
            user_key=ibis.literal("-"),
            release_digest=ibis.null("string"),
            surface=ibis.null("string"),
        )
        judged = self.normalize(raw)
        good = judged.filter(judged[c.REASON].isnull() & judged[c.ITEM_ID].notnull())
        requests = raw.select(c.ROW_NUMBER, request_id=cells.text(raw["request_id"]))
        good = good.select(c.ROW_NUMBER, c.EVENT_ID, c.ITEM_ID, c.EVENT_TYPE, c.VALUE).inner_join(
            requests, c.ROW_NUMBER
        )
        once = good.group_by([c.EVENT_ID, c.REQUEST_ID, c.ITEM_ID, c.EVENT_TYPE]).aggregate(value=good[c.VALUE].max())
        event_type = once[c.EVENT_TYPE]
        counted = {"num_clicks": _CLICKS, "num_carts": (contract.ADD_TO_CART,), "num_purchases": (contract.PURCHASE,)}
        return once.group_by([c.REQUEST_ID, c.ITEM_ID]).aggregate(
            **{name: event_type.isin(types).cast("int64").sum() for name, types in counted.items()},
            value=once[c.VALUE].sum(where=event_type == contract.PURCHASE).cast(_MONEY),
        )


def _log_files(path: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Files of feedback and of requests by relative name."""
    if not path.is_dir():
        raise InputError(f"{path} is no folder. Give the folder that holds {_REQUESTS}… and {_FEEDBACK}….")
    found = door.parts(path, NAME)
    feedback = {name: file for name, file in found.items() if name.startswith(_FEEDBACK)}
    requests = {name: file for name, file in found.items() if name.startswith(_REQUESTS)}
    if not feedback and not requests:
        raise InputError(
            f"{path} holds neither {_REQUESTS}… nor {_FEEDBACK}…; expected files or folders of these names."
        )
    return feedback, requests


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


def _distinct_requests(rows: ir.Table) -> ir.Table:
    """Requests with an id, a user and a moment, each once: the first row of an id counts."""
    usable = rows.mutate(
        request_id=cells.text(rows["request_id"]),
        user_key=cells.text(rows["user_key"]),
        **{c.TS_US: _moment(rows["request_time"])},
    )
    usable = usable.filter(usable["request_id"].notnull(), usable["user_key"].notnull(), usable[c.TS_US].notnull())
    first = ibis.window(group_by=usable["request_id"], order_by=[usable[c.TS_US], usable[c.ROW_NUMBER]])
    return usable.mutate(place=ibis.row_number().over(first)).filter(lambda t: t["place"] == 0).drop("place")


def _moment(value: ir.Value) -> ir.IntegerValue:
    """A moment as text, or as microseconds since 1970."""
    counted = cells.text(value).re_search(r"^[0-9]+$").fill_null(False)
    result: ir.IntegerValue = counted.ifelse(cells.moment_us(value, "us"), cells.moment_us(value))
    return result


def _shown(requests: ir.Table) -> ir.Table:
    """One row per product of each request."""
    place = ibis.range(0, requests["item_ids"].length().fill_null(0)).unnest()
    rows = requests.mutate(place=place)
    position = cells.whole(cells.number(rows["positions"][rows["place"]]))
    rows = rows.mutate(
        **{
            c.USER_ID: rows["user_key"],
            c.ITEM_ID: cells.text(rows["item_ids"][rows["place"]]),
            c.POSITION: ibis.coalesce(position, rows["place"]).cast("int64"),
            c.SCORE: cells.number(rows["scores"][rows["place"]]),
            c.PROPENSITY: cells.number(rows["propensities"][rows["place"]]),
            c.EXPERIMENT: cells.text(rows["experiment"]),
            c.VARIANT: cells.text(rows["variant"]),
        }
    )
    rows = rows.filter(rows[c.ITEM_ID].notnull())
    for column in (c.ITEM_ID, c.POSITION):
        same = ibis.window(group_by=[rows[c.REQUEST_ID], rows[column]], order_by=rows["place"])
        rows = rows.mutate(again=ibis.row_number().over(same)).filter(lambda t: t["again"] == 0).drop("again")
    names = (c.REQUEST_ID, c.USER_ID, c.ITEM_ID, c.TS_US, c.POSITION, c.SCORE, c.PROPENSITY)
    return rows.select(*names, c.SURFACE, c.RELEASE_DIGEST, c.EXPERIMENT, c.VARIANT)
