"""The bytes of a predict request in, its signature's checked instances out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from endcap.contracts.release import DEFAULT_SIGNATURE
from endcap.serving.checks import kind_of, shown
from endcap.serving.errors import RequestError
from endcap.serving.instances import Limits, Pairs, PairsReader, Query, QueryReader

MAX_INSTANCES: Final = 1024


Form = Literal["rows", "columns", "arrays"]
"""How an answer is given: a JSON body of either kind, or `Arrays`."""


class Recommend(msgspec.Struct):
    """A request for recommendations, and the form its answer takes."""

    queries: list[Query]
    form: Form

    @property
    def num_rows(self) -> int:
        """Rows that the graph computes."""
        return len(self.queries)

    @property
    def num_results(self) -> int:
        """Products in the answer."""
        return sum(query.k for query in self.queries)


class Rank(msgspec.Struct):
    """A request for scores of pairs, and the form its answer takes."""

    queries: list[Pairs]
    form: Form

    @property
    def num_rows(self) -> int:
        """Rows that the graph computes."""
        return sum(len(pairs.item_ids) for pairs in self.queries)

    @property
    def num_results(self) -> int:
        """Products in the answer."""
        return self.num_rows


PredictRequest = Recommend | Rank


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    signature_name: str | None = None
    instances: list[dict[str, Any]] | None = None
    inputs: dict[str, Any] | None = None
    k: Any = None
    exclude: Any = None
    only: Any = None
    filter: Any = None
    parameters: dict[str, Any] | None = None


EXAMPLES: Final = "examples"
"""The input that holds serialized examples."""
B64: Final = "b64"
# The keys of an instance that is a serialized `tf.Example`.
_PACKED: Final = ({B64}, {EXAMPLES})

# What Vertex AI hands on beside the instances: the same keys, one level down.
_PARAMETERS: Final = ("signature_name", "k", "exclude", "only", "filter")


class RequestDecoder:
    """Decodes and checks predict requests against the signatures of a release."""

    def __init__(self, readers: Mapping[str, QueryReader | PairsReader]) -> None:
        """Take what reads the instances of each signature, `serving_default` among them."""
        self.readers = readers
        self._decoder = msgspec.json.Decoder(_Body)

    def decode(self, raw: bytes) -> PredictRequest:
        """Check the request's body. Raises RequestError (400) that names the place, what was expected and found."""
        body = self._parse(raw)
        if body.parameters is not None:
            _take_parameters(body, body.parameters)
        if (body.instances is None) == (body.inputs is None):
            found = "neither" if body.instances is None else "both"
            raise RequestError(
                400, f'Expected either "instances" (a list of objects) or "inputs" (an object of lists); found {found}.'
            )
        limits = Limits(body.k, body.exclude, body.only, body.filter)
        if body.instances is not None:
            instances = self._unpacked(body.signature_name, body.instances, "instances")
            return self.check(body.signature_name, instances, limits, "rows", "instances")
        rows = self._unpacked(body.signature_name, _rows_of_columns(body.inputs or {}), "inputs")
        return self.check(body.signature_name, rows, limits, "columns", "inputs")

    def check(
        self, signature_name: str | None, instances: list[dict[str, Any]], limits: Limits, form: Form, place: str
    ) -> PredictRequest:
        """Check decoded instances; errors name them as `place`. Raises RequestError (400)."""
        reader = self.reader(signature_name)
        check_number(len(instances))
        if isinstance(reader, QueryReader):
            return Recommend(reader.read(instances, place, limits), form)
        return Rank(reader.read(instances, place, limits), form)

    def _unpacked(
        self, signature_name: str | None, instances: list[dict[str, Any]], place: str
    ) -> list[dict[str, Any]]:
        """The instances; where they are serialized examples, what these say."""
        if not instances or instances[0].keys() not in _PACKED:
            return instances
        from endcap.serving.examples import instances_of_examples, raw_examples

        check_number(len(instances))
        serialized = raw_examples([one.get(EXAMPLES, one) for one in instances], place)
        if serialized is None:
            return instances
        return instances_of_examples(serialized, self.reader(signature_name), place)

    def reader(self, signature_name: str | None) -> QueryReader | PairsReader:
        """What reads the instances of a signature. Raises RequestError (400) for one that the release doesn't have."""
        reader = self.readers.get(signature_name or DEFAULT_SIGNATURE)
        if reader is None:
            there = ", ".join(sorted(self.readers))
            raise RequestError(400, f"Unknown signature {shown(signature_name or '')}. This release has: {there}.")
        return reader

    def _parse(self, raw: bytes) -> _Body:
        try:
            body = self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            raise RequestError(
                400,
                f"The request does not fit: {error}. Expected an object with instances or inputs and, if wished, "
                "signature_name, k, exclude, only, filter, parameters.",
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RequestError(400, f"The request is not valid JSON: {error}.") from None
        except RecursionError:
            raise RequestError(400, "The request is nested too deeply. Expected a list of flat objects.") from None
        _refuse_repeated_keys(raw, body)
        return body


def _refuse_repeated_keys(raw: bytes, body: _Body) -> None:
    """Refuse (400) an object in which a key stands twice: others would take the first for what was meant."""
    # As many as there are keys in what was decoded: none is there twice. Only where it is otherwise (objects lie deeper, a
    # text holds the like, a key is null) is it worth looking closer, and at last decoding anew.
    found = raw.count(b'":')
    num_keys = (
        (body.signature_name is not None) + (body.k is not None) + (body.exclude is not None) + (body.only is not None)
        + (body.filter is not None) + (body.parameters is not None) + (body.instances is not None) + (body.inputs is not None)
    )  # fmt: skip
    if body.instances is not None:
        num_keys += sum(map(len, body.instances))
    if body.inputs is not None:
        num_keys += len(body.inputs)
    if found == num_keys:
        return
    for deeper in (*(body.instances or ()), body.inputs, body.filter, body.parameters):
        num_keys += _num_keys(deeper)
    num_keys -= sum(map(len, body.instances or ())) + len(body.inputs or ())
    if found == num_keys:
        return
    try:
        json.loads(raw, object_pairs_hook=_unrepeated)
    except _RepeatedKeyError as error:
        raise RequestError(400, f"The key {shown(str(error))} stands twice in one object. Say it once.") from None
    except RecursionError:
        raise RequestError(400, "The request is nested too deeply. Expected a list of flat objects.") from None


def _num_keys(value: Any) -> int:
    """Keys of all objects in it."""
    if type(value) is dict:
        return len(value) + sum(_num_keys(one) for one in value.values() if type(one) is dict or type(one) is list)
    if type(value) is list and value and type(value[0]) is dict:
        return sum(map(_num_keys, value))
    return 0


class _RepeatedKeyError(ValueError):
    """Says the key."""


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RepeatedKeyError(next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place])))
    return found


def check_number(num_instances: int) -> None:
    """Refuse no instances, and more than one request may have."""
    if not num_instances:
        raise RequestError(400, "Expected at least one instance; found an empty list.")
    if num_instances > MAX_INSTANCES:
        raise RequestError(
            400, f"Expected at most {MAX_INSTANCES:,} instances; found {num_instances:,}. Send them in parts."
        )


def _take_parameters(body: _Body, parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        if name not in _PARAMETERS:
            raise RequestError(400, f"parameters: unknown key {shown(name)}; expected: {', '.join(_PARAMETERS)}.")
        if getattr(body, name) is not None:
            raise RequestError(400, f"parameters.{name}: {name} is there twice. Say it once.")
        if name == "signature_name" and not isinstance(value, str | None):
            raise RequestError(400, f"parameters.{name}: expected a string; found {kind_of(value)}.")
        setattr(body, name, value)


def _rows_of_columns(inputs: dict[str, Any]) -> list[dict[str, Any]]:
    lengths: dict[str, int] = {}
    for name, column in inputs.items():
        if not isinstance(column, list):
            raise RequestError(
                400, f"inputs.{shown(name)}: expected a list, one value per row; found {kind_of(column)}."
            )
        lengths[name] = len(column)
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{shown(name)} {length}" for name, length in list(lengths.items())[:10])
        raise RequestError(400, f"inputs: expected lists of one length; found {found}.")
    num_rows = next(iter(lengths.values()), 0)
    if num_rows > MAX_INSTANCES:
        raise RequestError(400, f"Expected at most {MAX_INSTANCES:,} rows; found {num_rows:,}. Send them in parts.")
    return [{name: column[i] for name, column in inputs.items()} for i in range(num_rows)]
