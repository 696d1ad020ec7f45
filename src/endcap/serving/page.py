"""Requests of people's browsers in, a page out on which they ask for recommendations, and the names of the products it shows."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
import re
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qs

import msgspec
import orjson

from endcap.contracts.errors import ArtifactError, EndcapError
from endcap.contracts.release import ITEMS
from endcap.releases.bundle import sha256_of
from endcap.serving.checks import check_item_ids
from endcap.serving.errors import RequestError
from endcap.serving.messages import Header, Request, Response

if TYPE_CHECKING:
    from endcap.serving.catalog import Catalog
    from endcap.serving.predictor import Predictor
    from endcap.serving.versions import Loaded, Models, ServedModel, Version

logger = logging.getLogger(__name__)

PAGE: Final = b"/"
MARK: Final = b"x-endcap-page"
"""What the page sends along: a page of another origin can't, unless it is allowed to."""
MAX_LIMIT: Final = 100
MAX_IDS: Final = 1_000
MAX_CHARACTERS: Final = 200
# Searches that wait for the one thread; each takes some milliseconds.
_MAX_WAITING: Final = 32
_LIST: Final = "/v1/models"
_DATA: Final = re.compile(r"/v1/models/([^/:]+)(?:/(versions|labels)/([^/:]+))?/(catalog|products)")
_STATIC: Final = Path(__file__).with_name("static")
_HTML: Final = b"text/html; charset=utf-8"
_CHALLENGES: Final = ((b"www-authenticate", b'Basic realm="Endcap", charset="UTF-8"'), (b"www-authenticate", b"Bearer"))
_INT64: Final = 2**63
_DATA_HEADERS: Final[tuple[Header, ...]] = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))

FindVersion = Callable[[str, str | None, str | None], "Version"]
"""A model's name, `versions` or `labels` or nothing, and which one in; the version out."""


class _Ids(msgspec.Struct, forbid_unknown_fields=True):
    ids: list[Any]


class Page:
    """The routes of the page. What they show of a release is read when it is first asked for."""

    def __init__(self, models: Models, find: FindVersion, *, asks_for_token: bool) -> None:
        self._models, self._find = models, find
        self._asks_for_token = asks_for_token
        # The catalog goes with the version that it is of.
        self._catalogs: weakref.WeakKeyDictionary[Loaded, Catalog] = weakref.WeakKeyDictionary()
        self._pool: ThreadPoolExecutor | None = None
        self._num_waiting = 0

    def answer(self, request: Request, path: str) -> tuple[str, Response | asyncio.Future[Response]] | None:
        """The route's name and the answer, where it is one of the page's; on the event loop. Raises RequestError."""
        if path == "/":
            _demand(request, b"GET", b"HEAD")
            return "page", _page()
        if path == _LIST:
            _demand(request, b"GET", b"HEAD")
            return "models", _data(self._list(request))
        asked = _DATA.fullmatch(path)
        if asked is None:
            return None
        name, kind, which, what = asked.groups()
        if what == "catalog":
            _demand(request, b"GET", b"HEAD")
            version = self._find(name, kind, which)
            return "catalog", self._later(version.in_service, lambda catalog: _describe(version, catalog))
        _demand(request, b"GET", b"HEAD", b"POST")
        loaded = self._find(name, kind, which).in_service
        if request.method == b"POST":
            ids = _ids_of(request.body, loaded.predictor)
            return "products", self._later(loaded, lambda catalog: {"products": catalog.of(ids)})
        words, limit = _search_of(request.query)

        def search(catalog: Catalog) -> dict[str, Any]:
            found = catalog.search(words, limit)
            return {"num_found": found.num_found, "products": found.products}

        return "products", self._later(loaded, search)

    def _list(self, request: Request) -> dict[str, Any]:
        """The models that the caller may ask."""
        allowed = request.caller.models if request.caller is not None else None
        models = [model for model in self._models.served if allowed is None or model.name in allowed]
        return {"models": [_listed(model) for model in models], "asks_for_token": self._asks_for_token}

    def _later(self, loaded: Loaded, use: Callable[[Catalog], dict[str, Any]]) -> asyncio.Future[Response]:
        """What is made of the version's catalog, by a thread: reading it takes a moment, and so may a search."""
        if self._num_waiting >= _MAX_WAITING:
            raise RequestError(
                429, "Too busy: too many searches wait. Ask again in a second.", ((b"retry-after", b"1"),)
            )
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="endcap-catalog")

        def compute() -> Response:
            catalog = self._catalogs.get(loaded)
            if catalog is None:
                catalog = self._catalogs[loaded] = read_catalog(loaded.predictor)
            return _data(use(catalog))

        self._num_waiting += 1
        answer = asyncio.get_running_loop().run_in_executor(self._pool, compute)
        answer.add_done_callback(self._count_down)
        return answer

    def _count_down(self, _answer: asyncio.Future[Response]) -> None:
        self._num_waiting -= 1


def bearer_of(request: Request, authorization: bytes) -> bytes:
    """An Authorization header as a program sends it, where a browser sends the token as the page's password.

    Browsers send passwords along by themselves, with other pages' requests too; so beside the page only those count
    that carry its mark.
    """
    scheme, _, given = authorization.partition(b" ")
    if scheme.lower() != b"basic" or not (request.path == PAGE or any(name == MARK for name, _ in request.headers)):
        return authorization
    try:
        _, _, token = base64.b64decode(given.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return authorization
    return b"Bearer " + token


def asking_for_password(request: Request, authorization: bytes, error: RequestError) -> RequestError:
    """The refusal, such that a browser asks its person for a token, where it is one of the page."""
    is_of_program = authorization[:7].lower() == b"bearer "
    if request.path != PAGE or error.status not in (401, 403) or is_of_program:
        return error
    reason = f"{error.message} " if error.status == 403 else ""
    return RequestError(
        401, f"{reason}This page asks for a token: give it as the password, with any user name.", _CHALLENGES
    )


@cache
def _page() -> Response:
    """The page, in one piece. What it may run and look like is said by digests of just that."""
    style = _text("page.css")
    script = "\n".join(_text(name) for name in ("elements.js", "products.js", "answer.js", "page.js"))
    html = _text("page.html").replace("/* style */", style).replace("/* script */", script)
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )
    headers = (
        *_DATA_HEADERS,
        (b"content-security-policy", policy.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"DENY"),
        (b"cross-origin-opener-policy", b"same-origin"),
    )
    return Response(200, html.encode(), _HTML, headers)


def _text(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data(content: dict[str, Any]) -> Response:
    return Response(200, orjson.dumps(content), headers=_DATA_HEADERS)


def _listed(model: ServedModel) -> dict[str, Any]:
    current = model.current
    return {
        "name": model.name,
        "version": str(current.number) if current is not None else None,
        "versions": [str(number) for number in reversed(model.available)],
        "labels": {label: str(number) for label, number in sorted(model.labels.items())},
    }


def _describe(version: Version, catalog: Catalog) -> dict[str, Any]:
    """What there is to ask of a release."""
    predictor = version.in_service.predictor
    manifest = predictor.release.manifest
    retrieval, ranking = manifest.retrieval, manifest.ranking
    side = retrieval or ranking
    if side is None:
        raise RequestError(503, "The release neither recommends nor scores.")
    reader = next(iter(predictor.decoder.readers.values()))
    described = {
        "version": str(version.number),
        "as_of": manifest.as_of,
        "item_id_type": side.item_id_type,
        "customer": next(
            {"name": tensor.name, "dtype": tensor.dtype}
            for tensor in reader.client_inputs
            if tensor.name == side.primary_id
        ),
        "features": [
            {"name": one.name, "dtype": one.tensor.dtype, "is_list": one.is_list, "required": one.tensor.required}
            for one in reader.features
            if one.name != side.primary_id
        ],
        "history": None if side.history is None else {"max_length": side.history.max_length},
        "recommends": retrieval is not None,
        "ranking": None
        if ranking is None
        else {"target": ranking.target, "units": ranking.units, "item": ranking.item_input},
    }
    return described | catalog.describe()


def read_catalog(predictor: Predictor) -> Catalog:
    """The products of a release. Raises RequestError (503) where the release's file isn't as it was when the version was loaded."""
    # Arrow is imported by then, or here: a server whose page nobody opens does without.
    from endcap.serving.catalog import Catalog

    release = predictor.release
    path = release.file(ITEMS) if release.has(ITEMS) else None
    try:
        if path is not None and sha256_of(path) != release.manifest.files[ITEMS].sha256:
            raise ArtifactError(f"{path} is not what it was when the release was loaded. Release again.")
        if predictor.retriever is None:
            return Catalog(path)
        catalog = Catalog(path, predictor.retriever.item_ids)
        predictor.retriever.drop_id_pages()
    except (EndcapError, OSError) as error:
        # The path is for the operator alone.
        logger.error("The products of %s can't be read: %s: %s", release.path, type(error).__name__, error)
        raise RequestError(
            503, "The names of this release's products can't be read. Its operator finds out why."
        ) from error
    return catalog


def _ids_of(body: bytes, predictor: Predictor) -> list[Any]:
    try:
        ids = msgspec.json.decode(body, type=_Ids).ids
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, f"Expected an object with a list of product ids, ids: {error}.") from None
    if len(ids) > MAX_IDS:
        raise RequestError(400, f"ids: expected at most {MAX_IDS:,} product ids; found {len(ids):,}.")
    manifest = predictor.release.manifest
    side = cast(Any, manifest.retrieval or manifest.ranking)
    for place, one in enumerate(check_item_ids(ids, side.item_id_type, "ids")):
        if isinstance(one, int) and not -_INT64 <= one < _INT64:
            raise RequestError(400, f"ids[{place}]: expected an integer of 64 bits; found a larger one.")
    return ids


def _search_of(query: bytes) -> tuple[str, int]:
    """The words that are searched for, and how many products are wished."""
    try:
        asked = parse_qs(query.decode(), keep_blank_values=True, max_num_fields=8, errors="strict")
    except ValueError:
        raise RequestError(400, "The query can't be read: expected q=WORDS&limit=NUMBER, in UTF-8.") from None
    if unknown := sorted(asked.keys() - {"q", "limit"}):
        raise RequestError(400, f"Unknown in the query: {len(unknown)} of its keys. It takes q and limit.")
    if any(len(values) > 1 for values in asked.values()):
        raise RequestError(400, "The query names a key twice. It takes q and limit, once each.")
    words, limit = asked.get("q", [""])[0], asked.get("limit", ["20"])[0]
    if len(words) > MAX_CHARACTERS:
        raise RequestError(400, f"q: expected at most {MAX_CHARACTERS} characters; found {len(words):,}.")
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 3 and 1 <= int(limit) <= MAX_LIMIT):
        raise RequestError(400, f"limit: expected a whole number from 1 to {MAX_LIMIT}.")
    return words, int(limit)


def _demand(request: Request, *methods: bytes) -> None:
    if request.method not in methods:
        allowed = b", ".join(methods)
        raise RequestError(405, f"This route takes {allowed.decode()}.", ((b"allow", allowed),))
