"""The bytes of a predict request in, checked queries in the signature's order out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

import msgspec

from endcap.contracts.release import DType, Retrieval, Signature, Tensor
from endcap.serving.errors import RequestError

USER_HISTORY: Final = "user_history"
EVENT_TIME: Final = "event_time_us"
K: Final = "k"
EXCLUDE: Final = "exclude"

MAX_INSTANCES: Final = 1024
# Products in one answer over all instances: what bounds the answer's size and the memory it takes.
MAX_RESULTS: Final = 500_000

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_FLOAT32_MAX = 3.4028234663852886e38


@dataclass(slots=True)
class Query:
    """One instance, checked. `values` stand in the order of `RequestDecoder.features`; None: left out."""

    values: list[Any]
    k: int
    history: list[Any] | None
    exclude: list[Any] | None


@dataclass(slots=True)
class PredictRequest:
    """The queries of one request and the form its answer takes."""

    queries: list[Query]
    is_columns: bool


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    signature_name: str | None = None
    instances: list[dict[str, Any]] | None = None
    inputs: dict[str, Any] | None = None
    k: Any = None
    exclude: Any = None


@dataclass(frozen=True)
class Feature:
    """One input of the signature that a client gives."""

    tensor: Tensor
    check: Callable[[Any, str], Any]

    @property
    def name(self) -> str:
        """Its key in an instance."""
        return self.tensor.name

    @property
    def is_list(self) -> bool:
        """Whether a value is a list: the shape has a second dimension other than 1."""
        return len(self.tensor.shape) > 1 and self.tensor.shape[1] != 1


def takes_present_time(tensor: Tensor) -> bool:
    """Whether the input is the moment of the request, so that an absent value means this moment.

    A value of the snapshot would be the moment at which the release was made.
    """
    return tensor.name == EVENT_TIME and tensor.dtype == "INT64" and tensor.default is None


def default_value(tensor: Tensor) -> Any:
    """What an optional input is when neither the request nor the snapshot has it.

    The manifest's default. Without one: the present time in microseconds UTC where the input takes that, else what
    the graphs read as unknown.
    """
    if tensor.default is not None:
        return tensor.default
    if takes_present_time(tensor):
        return time.time_ns() // 1000
    return {"STRING": "", "FLOAT": math.nan, "INT64": 0}[tensor.dtype]


@dataclass
class RequestDecoder:
    """Decodes and checks predict requests against one signature of a release."""

    signatures: dict[str, Signature]
    signature_name: str
    retrieval: Retrieval
    features: list[Feature] = field(init=False)

    def __post_init__(self) -> None:
        """Derive what an instance may hold."""
        history = self.retrieval.history
        self._history_names: tuple[str, ...] = ()
        parts: set[str] = set()
        if history is not None:
            parts = {history.items_input, history.ages_input, history.counts_input}
            self._history_names = tuple({USER_HISTORY: None, history.items_input: None})
        inputs = self.signatures[self.signature_name].inputs
        self.features = [
            Feature(tensor, _list_check(tensor) if _is_list(tensor) else _SCALAR_CHECKS[tensor.dtype])
            for tensor in inputs
            if tensor.name not in parts and not (history is not None and tensor.name == USER_HISTORY)
        ]
        self._known = {feature.name for feature in self.features} | set(self._history_names) | {K, EXCLUDE}
        self._decoder = msgspec.json.Decoder(_Body)

    def decode(self, raw: bytes) -> PredictRequest:
        """Check the request's body. Raises RequestError (400) that names the place, what was expected and found."""
        body = self._parse(raw)
        if body.signature_name is not None and body.signature_name != self.signature_name:
            self._refuse_signature(body.signature_name)
        default_k = self.retrieval.top_k if body.k is None else self._check_k(body.k, K)
        exclude = None if body.exclude is None else self._check_ids(body.exclude, EXCLUDE)
        if (body.instances is None) == (body.inputs is None):
            found = "neither" if body.instances is None else "both"
            raise RequestError(
                400, f'Expected either "instances" (a list of objects) or "inputs" (an object of lists); found {found}.'
            )
        instances = body.instances
        if instances is None:
            instances = self._rows_of_columns(body.inputs or {})
        if not instances:
            raise RequestError(400, "Expected at least one instance; found an empty list.")
        if len(instances) > MAX_INSTANCES:
            raise RequestError(
                400, f"Expected at most {MAX_INSTANCES:,} instances; found {len(instances):,}. Send them in parts."
            )
        is_columns = body.inputs is not None
        queries = [
            self._check_instance(instance, f"inputs[{i}]" if is_columns else f"instances[{i}]", default_k, exclude)
            for i, instance in enumerate(instances)
        ]
        num_results = sum(query.k for query in queries)
        if num_results > MAX_RESULTS:
            raise RequestError(
                400,
                f"Expected at most {MAX_RESULTS:,} products in one answer (k of all instances); found {num_results:,}.",
            )
        return PredictRequest(queries, is_columns)

    def _parse(self, raw: bytes) -> _Body:
        try:
            return self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            raise RequestError(
                400,
                f"The request does not fit: {error}. Expected an object with instances or inputs and, if wished, "
                "signature_name, k, exclude.",
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RequestError(400, f"The request is not valid JSON: {error}.") from None
        except RecursionError:
            raise RequestError(400, "The request is nested too deeply. Expected a list of flat objects.") from None

    def _refuse_signature(self, name: str) -> None:
        there = ", ".join(sorted(self.signatures))
        if name in self.signatures:
            raise RequestError(
                400, f"This server answers the signature {self.signature_name} alone; release has: {there}."
            )
        raise RequestError(400, f"Unknown signature {_shown(name)}. This release has: {there}.")

    def _rows_of_columns(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        lengths: dict[str, int] = {}
        for name, column in inputs.items():
            if not isinstance(column, list):
                raise RequestError(
                    400, f"inputs.{_shown(name)}: expected a list, one value per row; found {_kind(column)}."
                )
            lengths[name] = len(column)
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{_shown(name)} {length}" for name, length in list(lengths.items())[:10])
            raise RequestError(400, f"inputs: expected lists of one length; found {found}.")
        num_rows = next(iter(lengths.values()), 0)
        if num_rows > MAX_INSTANCES:
            raise RequestError(400, f"Expected at most {MAX_INSTANCES:,} rows; found {num_rows:,}. Send them in parts.")
        return [{name: column[i] for name, column in inputs.items()} for i in range(num_rows)]

    def _check_instance(self, instance: dict[str, Any], place: str, default_k: int, exclude: list[Any] | None) -> Query:
        values: list[Any] = []
        num_known = 0
        for feature in self.features:
            value = instance.get(feature.name)
            if value is None:
                if feature.tensor.required:
                    raise RequestError(400, self._describe_missing(place, feature.name))
                num_known += feature.name in instance
            else:
                value = feature.check(value, f"{place}.{feature.name}")
                num_known += 1
            values.append(value)
        query = Query(values, default_k, None, exclude)
        if num_known != len(instance):
            self._check_rest(instance, place, query)
        return query

    def _check_rest(self, instance: dict[str, Any], place: str, query: Query) -> None:
        """Everything of an instance beside the features: history, k, exclude, and names that don't exist."""
        for name in instance:
            if name not in self._known:
                nearest = get_close_matches(name, self._known, n=1)
                hint = f" Did you mean {nearest[0]}?" if nearest else ""
                raise RequestError(400, f"{place}: unknown feature {_shown(name)}.{hint} {self._describe_signature()}")
        for name in self._history_names:
            if instance.get(name) is not None:
                query.history = self._check_ids(instance[name], f"{place}.{name}")
        if instance.get(K) is not None:
            query.k = self._check_k(instance[K], f"{place}.{K}")
        if instance.get(EXCLUDE) is not None:
            query.exclude = (query.exclude or []) + self._check_ids(instance[EXCLUDE], f"{place}.{EXCLUDE}")

    def _check_k(self, k: Any, place: str) -> int:
        num_items = self.retrieval.num_items
        if not isinstance(k, int) or isinstance(k, bool):
            raise RequestError(400, f"{place}: expected a whole number from 1 to {num_items:,}; found {_kind(k)}.")
        if not 1 <= k <= num_items:
            raise RequestError(
                400,
                f"{place}: expected 1 to {num_items:,}, the number of products in the catalog; found {k if abs(k) < 10**12 else 'a larger number'}.",
            )
        return k

    def _check_ids(self, ids: Any, place: str) -> list[Any]:
        expected = str if self.retrieval.item_id_type == "STRING" else int
        if not isinstance(ids, list):
            raise RequestError(400, f"{place}: expected a list of product ids; found {_kind(ids)}.")
        for i, item_id in enumerate(ids):
            if type(item_id) is not expected:
                wanted = "a string" if expected is str else "an integer"
                raise RequestError(400, f"{place}[{i}]: expected a product id, {wanted}; found {_kind(item_id)}.")
        return ids

    def _describe_missing(self, place: str, name: str) -> str:
        return f"{place}: missing feature {name}. {self._describe_signature()}"

    def _describe_signature(self) -> str:
        required = [f"{f.name} ({f.tensor.dtype})" for f in self.features if f.tensor.required]
        optional = [f"{f.name} ({f.tensor.dtype})" for f in self.features if not f.tensor.required]
        optional += [f"{USER_HISTORY} (product ids)"] if self._history_names else []
        optional += [f"{K} (INT64)", f"{EXCLUDE} (product ids)"]
        return f"{self.signature_name} takes: {', '.join(required) or 'nothing'}; optional: {', '.join(optional)}."


def _is_list(tensor: Tensor) -> bool:
    return len(tensor.shape) > 1 and tensor.shape[1] != 1


def _check_string(value: Any, place: str) -> str:
    if type(value) is not str:
        raise RequestError(400, f"{place}: expected a string (STRING); found {_kind(value)}.")
    return value


def _check_int64(value: Any, place: str) -> int:
    if type(value) is not int:
        raise RequestError(400, f"{place}: expected an integer (INT64); found {_kind(value)}.")
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise RequestError(400, f"{place}: expected an integer of 64 bits (INT64); found a larger one.")
    return value


def _check_float(value: Any, place: str) -> float:
    if type(value) is not float and type(value) is not int:
        raise RequestError(400, f"{place}: expected a number (FLOAT); found {_kind(value)}.")
    if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
        raise RequestError(400, f"{place}: expected a number within 32-bit float range (FLOAT); found a larger one.")
    return float(value)


_SCALAR_CHECKS: Final[dict[DType, Callable[[Any, str], Any]]] = {
    "STRING": _check_string,
    "INT64": _check_int64,
    "FLOAT": _check_float,
}


def _list_check(tensor: Tensor) -> Callable[[Any, str], Any]:
    check = _SCALAR_CHECKS[tensor.dtype]
    length = tensor.shape[1]

    def check_list(value: Any, place: str) -> list[Any]:
        if not isinstance(value, list):
            raise RequestError(400, f"{place}: expected a list of {tensor.dtype}; found {_kind(value)}.")
        if length >= 0 and len(value) != length:
            raise RequestError(400, f"{place}: expected {length} values; found {len(value)}.")
        return [check(element, f"{place}[{i}]") for i, element in enumerate(value)]

    return check_list


def _kind(value: Any) -> str:
    """The JSON type of a value, as a person says it. Never the value: it may be a person's."""
    names: Sequence[tuple[Any, str]] = (
        (bool, "true or false"),
        (str, "a string"),
        (int, "an integer"),
        (float, "a number with a fraction"),
        (list, "a list"),
        (dict, "an object"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def _shown(name: str) -> str:
    """A name of the caller's, cut and made printable for a message."""
    cut = name if len(name) <= 64 else name[:61] + "..."
    return ascii(cut)
