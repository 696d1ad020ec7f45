"""The models that a server has loaded in, the OpenAPI document of its routes out."""

from __future__ import annotations

from typing import Any, Final

from endcap import __version__
from endcap.contracts.release import DEFAULT_SIGNATURE, DType, Tensor
from endcap.serving.checks import is_list
from endcap.serving.filters import FILTERS, MAX_CATEGORIES
from endcap.serving.instances import EXCLUDE, FILTER, ONLY, USER_HISTORY, CustomerReader, K, PairsReader, QueryReader
from endcap.serving.page import MAX_CHARACTERS, MAX_IDS, MAX_LIMIT
from endcap.serving.requests import MAX_INSTANCES
from endcap.serving.versions import Loaded, Models, ServedModel

Schema = dict[str, Any]

_TYPES: Final[dict[DType, Schema]] = {
    "STRING": {"type": "string"},
    "INT64": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "FLOAT": {"type": "number", "minimum": -3.4028234663852886e38, "maximum": 3.4028234663852886e38},
}
_REFUSALS: Final = {
    "400": "The request is wrong: the message says where, what was expected and what kind of thing was found.",
    "401": "A token is asked for.",
    "403": "The token may not do this; or a page of another site asks.",
    "404": "There is no such model, version, label or route here.",
    "405": "Another method is wanted; `Allow` names it.",
    "408": "The request did not arrive in time.",
    "413": "The body is too large, as it came or unpacked.",
    "415": "The body is compressed by something else than gzip.",
    "429": "Too busy; `Retry-After` says when to ask again.",
    "431": "The headers are too large.",
    "503": "Nothing is loaded, or the server is stopping; `Retry-After` says when to ask again.",
    "504": "No answer within the request's deadline.",
}


def describe_routes(models: Models, *, asks_for_token: bool, has_page: bool = True) -> dict[str, Any]:
    """The document, with a schema of the requests of each model as its current version takes them."""
    paths: dict[str, Any] = {
        "/health": {
            "get": _get(
                "Whether the server takes requests.", _object("status", "model", "version", "digest"), health=True
            )
        },
        "/monitoring/prometheus/metrics": {"get": _get("Metrics in Prometheus' text form.", None)},
        "/openapi.json": {"get": _get("This document.", {"type": "object"})},
        "/v2": {"get": _get("Name, version and extensions of the server.", {"type": "object"})},
        "/v2/health/live": {"get": _get("Whether the server runs.", {"type": "object"})},
        "/v2/health/ready": {"get": _get("Whether the server takes requests.", {"type": "object"}, health=True)},
    }
    schemas: dict[str, Any] = {
        "Error": _object("error"),
        "Status": _STATUS,
        "Answer": _ANSWER,
        "Tensors": _TENSORS,
        "TensorsAnswer": _TENSORS_ANSWER,
    }
    for model in models.served:
        current = model.current
        if current is not None and current.loaded is not None:
            paths |= _model_paths(model, current.loaded, schemas)
            if has_page:
                paths |= _product_paths(model, current.loaded)
    if has_page:
        page = _get("A page for people, on which they try what is served.", None)
        page["responses"]["200"]["content"] = {"text/html": {}}
        paths["/"] = {"get": page}
        paths["/v1/models"] = {"get": _get("The models, their versions and labels.", _MODELS)}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Endcap's server of recommendations",
            "version": __version__,
            "description": "TensorFlow Serving's REST, with `k`, `exclude`, `only`, `filter` and `user_history` per request.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if asks_for_token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        for open_to_all in ("/health", "/v2/health/live", "/v2/health/ready"):
            paths[open_to_all]["get"]["security"] = []
    return document


def _model_paths(model: ServedModel, loaded: Loaded, schemas: dict[str, Any]) -> dict[str, Any]:
    name = f"Request-{model.name}"
    schemas[name] = _request_of(loaded)
    base = f"/v1/models/{model.name}"
    paths: dict[str, Any] = {}
    for below, parameters in _OF_VERSIONS:
        paths[f"{base}{below}:predict"] = {"post": _predict(name, parameters)}
        paths[f"{base}{below}"] = {"get": _get("The state of its versions.", _ref("Status"), parameters)}
        paths[f"{base}{below}/metadata"] = {
            "get": _get("Its signatures: inputs and outputs.", _object("model_spec", "metadata"), parameters)
        }
    for below, parameters in _OF_VERSIONS[:2]:  # the protocol has no labels
        base = f"/v2/models/{model.name}{below}"
        paths[base] = {"get": _get("Its versions, inputs and outputs.", {"type": "object"}, parameters)}
        paths[f"{base}/ready"] = {"get": _get("Whether it answers.", {"type": "object"}, parameters, health=True)}
        paths[f"{base}/infer"] = {"post": _predict("Tensors", parameters, "TensorsAnswer")}
    return paths


def _product_paths(model: ServedModel, loaded: Loaded) -> dict[str, Any]:
    reader = next(iter(loaded.predictor.decoder.readers.values()))
    ids = {"type": "array", "items": _TYPES[reader.item_id_type], "maxItems": MAX_IDS}
    words = {
        "name": "q",
        "in": "query",
        "description": "Words of titles or ids.",
        "schema": {"type": "string", "maxLength": MAX_CHARACTERS},
    }
    limit = {
        "name": "limit",
        "in": "query",
        "description": "How many products; 20 without.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
    }
    product = {"type": "object", "properties": {"id": {"type": ["string", "integer"]}}, "required": ["id"]}
    products = {"type": "array", "items": product}
    found = _form({"num_found": {"type": "integer"}, "products": products}, ["num_found", "products"])
    post = {
        "summary": "What products are called, by their ids.",
        "parameters": [],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _form({"ids": ids}, ["ids"])}}},
        "responses": {
            "200": _answered("Those that the release has.", _form({"products": products}, ["products"])),
            **_refusals(),
        },
    }
    catalog = {"type": "object", "required": ["version", "num_products", "columns"]}
    paths: dict[str, Any] = {}
    for below, parameters in _OF_VERSIONS:
        base = f"/v1/models/{model.name}{below}"
        search = _get("Products that have all words, best first.", found, [*parameters, words, limit])
        paths[f"{base}/products"] = {"get": search, "post": {**post, "parameters": parameters}}
        paths[f"{base}/catalog"] = {"get": _get("What there is to ask of a version.", catalog, parameters)}
    return paths


def _predict(request: str, parameters: list[Schema], answer: str = "Answer") -> Schema:
    deadline = {
        "name": "x-request-timeout-ms",
        "in": "header",
        "description": "The request's deadline in milliseconds.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 600_000},
    }
    return {
        "summary": "Recommendations, or scores of given products.",
        "parameters": [*parameters, deadline],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(request)}}},
        "responses": {"200": _answered("The answer, in the request's form.", _ref(answer)), **_refusals()},
    }


def _request_of(loaded: Loaded) -> Schema:
    """What a predict request may be, of any signature, in rows or in columns."""
    forms: list[Schema] = []
    for name, reader in loaded.predictor.decoder.readers.items():
        shared: Schema = {"signature_name": {"const": name}}
        required = ["signature_name"]
        if name == DEFAULT_SIGNATURE:
            shared = {"signature_name": {"enum": [name, "", None]}}
            required = []
        limits = _limits(reader) if isinstance(reader, QueryReader) else {}
        # What is left out is null too, wherever something may be left out.
        said = {key: _or_null(limits[key]) if key in limits else {"type": "null"} for key in (K, EXCLUDE, ONLY, FILTER)}
        unsaid: Schema = {"signature_name": shared["signature_name"] if not required else {"type": "null"}}
        properties = shared | said | {"parameters": _or_null(_form(said | unsaid, []))}
        instance = _instance_of(reader, limits)
        rows = {"type": "array", "items": instance, "minItems": 1, "maxItems": MAX_INSTANCES}
        forms.append(_form({"instances": rows, "inputs": {"type": "null"}} | properties, ["instances", *required]))
        columns = _columns_of(instance)
        forms.append(_form({"inputs": columns, "instances": {"type": "null"}} | properties, ["inputs", *required]))
    return {"anyOf": forms}


def _form(properties: Schema, required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _instance_of(reader: CustomerReader, limits: Schema) -> Schema:
    properties: Schema = {}
    required = []
    for tensor in reader.client_inputs:
        of_buyers = {USER_HISTORY, *(one.name for one in reader.features)}
        is_products = isinstance(reader, PairsReader) and tensor.name not in of_buyers
        properties[tensor.name] = _value_of(tensor) if not is_products else _of_products(tensor)
        if tensor.required:
            required.append(tensor.name)
        else:
            properties[tensor.name] = _or_null(properties[tensor.name])
    properties |= {key: _or_null(schema) for key, schema in limits.items()}
    return _form(properties, required)


def _value_of(tensor: Tensor) -> Schema:
    if tensor.name == USER_HISTORY or is_list(tensor):
        length = tensor.shape[1]
        bounds = {"minItems": length, "maxItems": length} if length > 0 else {}
        return {"type": "array", "items": _TYPES[tensor.dtype], **bounds}
    return _TYPES[tensor.dtype]


def _of_products(tensor: Tensor) -> Schema:
    """A value of one product, or a list of them; of a feature that is a list itself, a list of lists."""
    value = _TYPES[tensor.dtype]
    if len(tensor.shape) > 2:
        value = {"type": "array", "items": value}
    return {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}


def _columns_of(instance: Schema) -> Schema:
    properties = {
        name: {"type": "array", "items": schema, "minItems": 1, "maxItems": MAX_INSTANCES}
        for name, schema in instance["properties"].items()
    }
    return {
        **_form(properties, instance["required"]),
        "minProperties": 1,
        "description": "Lists of one length: a value for each row.",
    }


def _limits(reader: QueryReader) -> Schema:
    ids = {"type": "array", "items": _TYPES[reader.item_id_type]}
    limits: Schema = {K: {"type": "integer", "minimum": 1, "maximum": reader.num_items}, EXCLUDE: ids, ONLY: ids}
    if reader.filtered_by:
        one = {"type": "string"}
        kinds: Schema = {
            "category": {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_CATEGORIES}]},
            "price": _form({"min": _or_null(_TYPES["FLOAT"]), "max": _or_null(_TYPES["FLOAT"])}, []),
            "in_stock": {"type": "boolean"},
        }
        limits[FILTER] = _form({name: _or_null(kinds[name]) for name in FILTERS if name in reader.filtered_by}, [])
    return limits


def _get(
    summary: str, schema: Schema | None, parameters: list[Schema] | None = None, *, health: bool = False
) -> Schema:
    answered = (
        _answered(summary, schema) if schema is not None else {"description": summary, "content": {"text/plain": {}}}
    )
    responses = {"200": answered, **_refusals()}
    if health:
        responses["503"] = _answered("The server is stopping.", schema or {})
    return {"summary": summary, "parameters": parameters or [], "responses": responses}


def _answered(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _refusals() -> Schema:
    return {status: _answered(description, _ref("Error")) for status, description in _REFUSALS.items()}


def _parameter(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(*names: str) -> Schema:
    """An object that has these, each whatever it is."""
    texts = {"error", "status", "model", "version", "digest"}
    return {
        "type": "object",
        "properties": {name: {"type": "string"} if name in texts else {"type": "object"} for name in names},
        "required": list(names),
    }


_OF_VERSIONS: Final[tuple[tuple[str, list[Schema]], ...]] = (
    ("", []),
    (
        "/versions/{version}",
        [_parameter("version", {"type": "string", "pattern": "^[0-9]{1,18}$"}, "A version's number.")],
    ),
    (
        "/labels/{label}",
        [_parameter("label", {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"}, "A version's label.")],
    ),
)
_MODELS: Final[Schema] = {
    "type": "object",
    "properties": {"models": {"type": "array", "items": {"type": "object"}}, "asks_for_token": {"type": "boolean"}},
    "required": ["models", "asks_for_token"],
}
_IDS: Final[Schema] = {"type": "array", "items": {"type": ["string", "integer"]}}
_SCORES: Final[Schema] = {"type": "array", "items": {"type": "number"}}
_ANSWER: Final[Schema] = {
    "anyOf": [
        _form(
            {
                "predictions": {
                    "type": "array",
                    "items": _form({"product_ids": _IDS, "scores": _SCORES}, ["product_ids", "scores"]),
                }
            },
            ["predictions"],
        ),
        _form(
            {
                "outputs": _form(
                    {"product_ids": {"type": "array", "items": _IDS}, "scores": {"type": "array", "items": _SCORES}},
                    ["product_ids", "scores"],
                )
            },
            ["outputs"],
        ),
    ]
}
_STATUS: Final[Schema] = _form(
    {
        "model_version_status": {
            "type": "array",
            "items": _form(
                {
                    "version": {"type": "string"},
                    "state": {"enum": ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]},
                    "status": _object("error_code", "error_message")
                    | {"properties": {"error_code": {"type": "string"}, "error_message": {"type": "string"}}},
                },
                ["version", "state", "status"],
            ),
        }
    },
    ["model_version_status"],
)
_SHAPE: Final[Schema] = {"type": "array", "items": {"type": "integer"}, "maxItems": 3}
_TENSORS: Final[Schema] = {
    "type": "object",
    "description": "The Open Inference Protocol's request; its binary extension is not described here.",
    "properties": {
        "id": _or_null({"type": "string"}),
        "parameters": _or_null({"type": "object"}),
        "inputs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "shape": _SHAPE,
                    "datatype": {"type": "string"},
                    "data": {"type": "array"},
                    "parameters": _or_null({"type": "object"}),
                },
                "required": ["name", "shape", "datatype", "data"],
            },
        },
        "outputs": _or_null(
            {
                "type": "array",
                "items": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            }
        ),
    },
    "required": ["inputs"],
}
_TENSORS_ANSWER: Final[Schema] = {
    "type": "object",
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "datatype": {"type": "string"},
                    "shape": _SHAPE,
                    "data": {"anyOf": [_IDS, _SCORES]},
                },
                "required": ["name", "datatype", "shape", "data"],
            },
        },
    },
    "required": ["model_name", "model_version", "outputs"],
}
