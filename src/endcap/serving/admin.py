"""An operator's requests in, versions, policies and labels of the models out and changed: apart from predictions."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
import orjson

from endcap.contracts.errors import EndcapError
from endcap.serving.app import METRICS, ServingApp, method_not_allowed, refusal
from endcap.serving.checks import kind_of, shown
from endcap.serving.connection import too_large
from endcap.serving.control import Control, ModelWishes, describe_policy, policy_of
from endcap.serving.door import Guard
from endcap.serving.errors import RequestError
from endcap.serving.loading import Loader
from endcap.serving.messages import Request, Response
from endcap.serving.settings import Specific
from endcap.serving.versions import Models, ServedModel

if TYPE_CHECKING:
    from endcap.serving.logs import Logs

MAX_ADMIN_BODY_BYTES: Final = 2**20

_ROUTES: Final = "/admin/models, /admin/models/NAME, /admin/models/NAME/policy, …/labels, …/items, …/reload"
_PATH: Final = re.compile(r"/admin/models(?:/([^/]+)(?:/(policy|labels|items|reload))?)?")
_HEALTH: Final = b"/health"
_LABEL: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class AdminApp:
    """What the admin port answers."""

    def __init__(
        self,
        serving: ServingApp,
        models: Models,
        loader: Loader,
        control: Control,
        guard: Guard,
        logs: Logs | None = None,
    ) -> None:
        """Where the guard has tokens, everything but health demands one with the scope `admin`."""
        self._logs = logs
        self._serving, self._models, self._loader = serving, models, loader
        self._control, self._tokens, self._hosts = control, guard.admin_tokens, guard.admin_hosts
        self._under_way: set[asyncio.Task[Response]] = set()

    def check_head(self, request: Request) -> None:
        """Authorize, and refuse what comes out of a browser: no page has business here."""
        if b"%" in request.path:
            request.path = unquote_to_bytes(request.path)
        authorization, num_bytes = b"", 0
        for name, value in request.headers:
            if name == b"authorization":
                authorization = value
            elif name == b"content-length":
                num_bytes = int(value)
            elif name == b"host" and self._hosts is not None:
                self._hosts.check(value)
            elif name == b"origin":
                raise RequestError(403, "The admin port answers no web pages. Ask it by a program, such as curl.")
        if self._tokens is not None and request.path != _HEALTH:
            request.caller = self._tokens.authorize(
                authorization, "read" if request.path == METRICS.encode() else "admin"
            )
        if num_bytes > MAX_ADMIN_BODY_BYTES:
            raise too_large()

    def answer(self, request: Request) -> Response | asyncio.Future[Any]:
        """Answer at once, or when what was asked for is done."""
        request.started = time.perf_counter()
        try:
            if request.path in (_HEALTH, METRICS.encode()):
                answer = self._serving.answer(request)
            else:
                request.route = "admin"
                answer = self._answer(request)
        except RequestError as error:
            answer = refusal(error)
        return self._noted(request, answer) if isinstance(answer, Response) else answer

    def conclude(self, request: Request, answer: asyncio.Future[Response]) -> Response:
        """What came of a change."""
        return self._noted(request, answer.result())

    def refuse(self, error: RequestError, request: Request | None) -> Response:
        """The response to a request that was not read to its end."""
        return refusal(error) if request is None else self._noted(request, refusal(error))

    def _noted(self, request: Request, response: Response) -> Response:
        if self._logs is not None and self._logs.access is not None:
            self._logs.access.note(request, response.status, len(response.body))
        return response

    def _answer(self, request: Request) -> Response | asyncio.Future[Any]:
        path = request.path.decode(errors="replace")
        asked = _PATH.fullmatch(path)
        if asked is None:
            raise RequestError(404, f"There is no route {shown(path)} on the admin port; it has: {_ROUTES}.")
        name, operation = asked.groups()
        allowed = ("GET", "HEAD") if operation is None else ("POST",)
        if request.method.decode() not in allowed:
            raise method_not_allowed(request.method.decode(), allowed[0])
        if name is None:
            return _json({"models": [_describe(model) for model in self._models.served]})
        model = self._models.model(name)
        if operation is None:
            return _json(_describe(model))
        if len(request.body) > MAX_ADMIN_BODY_BYTES:
            raise too_large()
        request.route = f"admin_{operation}"
        if operation == "policy":
            return self._do(self._set_policy(model, _body_of(request)))
        if operation == "labels":
            return self._do(self._set_labels(model, _body_of(request)))
        if operation == "items":
            return self._do(self._add_items(model, _body_of(request)))
        return self._do(self._reload(model))

    def _do(self, work: Coroutine[Any, Any, Response]) -> asyncio.Future[Response]:
        """What is begun is brought to its end, also where the client doesn't wait for it."""
        done: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def settle(task: asyncio.Task[Response]) -> None:
            self._under_way.discard(task)
            if done.done() or task.cancelled():
                done.cancel()
                return
            error = task.exception()
            if isinstance(error, RequestError):
                done.set_result(refusal(error))
            elif isinstance(error, EndcapError):  # of the models' place, or of the control folder
                done.set_result(refusal(RequestError(503, str(error), ((b"retry-after", b"5"),))))
            elif error is not None:
                done.set_exception(error)
            else:
                done.set_result(task.result())

        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(settle)
        return done

    async def _set_policy(self, model: ServedModel, said: dict[str, Any]) -> Response:
        try:
            policy = policy_of(said)
        except ValueError as error:
            raise RequestError(400, f"{error}.") from None
        if isinstance(policy, Specific):
            there = await self._loader.versions_of(model)
            missing = sorted(set(policy.versions).difference(there))
            if missing:
                raise RequestError(
                    409, f"{model.name} has no version {_listed(missing)} to load; there are: {_listed(there)}."
                )

        def wish(wishes: ModelWishes) -> None:
            wishes.policy = describe_policy(policy)

        self._control.change(model.name, wish)
        return await self._reload(model)

    async def _set_labels(self, model: ServedModel, said: dict[str, Any]) -> Response:
        for label, number in said.items():
            if not _LABEL.fullmatch(label):
                raise RequestError(400, f"{shown(label)} is no label: expected 1 to 64 letters, digits, '_', '.', '-'.")
            if number is not None and type(number) is not int:
                raise RequestError(400, f"{label}: expected a version's number or null; found {kind_of(number)}.")
            if number is not None and number not in model.available:
                raise RequestError(
                    409,
                    f"{label}: version {number} of {model.name} isn't loaded, so no label can name it; loaded: "
                    f"{_listed(model.available)}. Load it first, by the policy.",
                )
            if number is None and label not in model.wished_labels:
                raise RequestError(
                    409,
                    f"{label} wasn't set here. Set here are: {_listed(model.wished_labels)}; others are the registry's.",
                )

        def wish(wishes: ModelWishes) -> None:
            wishes.labels = wishes.labels | said

        self._control.change(model.name, wish)
        return await self._reload(model)

    async def _add_items(self, model: ServedModel, said: dict[str, Any]) -> Response:
        items = said.get("items")
        if not isinstance(items, list) or len(said) > 1:
            raise RequestError(400, 'Expected {"items": [...]} with an object of features for each product.')
        version = model.find()
        predictor = version.in_service.predictor
        add = self._control.add_items
        num_items = await self._loader.in_thread(lambda: add(model.name, version.number, predictor, items))
        await self._loader.reconcile()
        return _json({"added": num_items})

    async def _reload(self, model: ServedModel) -> Response:
        """Look at the place where the versions lie, at once; also versions that could not be loaded are tried again."""
        self._loader.forget_failures()
        await self._loader.reconcile()
        failed = [version for version in model.versions.values() if version.number in model.wanted and version.error]
        if failed:
            raise RequestError(
                409,
                f"Version {failed[0].number} of {model.name} can't be loaded: {failed[0].error} "
                f"Answering: {_listed(model.available)}.",
            )
        return _json(_describe(model))


def _body_of(request: Request) -> dict[str, Any]:
    try:
        said = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RequestError(400, "The request is not valid JSON.") from None
    if not isinstance(said, dict) or not said:
        raise RequestError(400, f"Expected an object with something in it; found {kind_of(said)}.")
    return said


def _describe(model: ServedModel) -> dict[str, Any]:
    current = model.current
    return {
        "name": model.name,
        "policy": describe_policy(model.policy),
        "labels": model.labels,
        "current": current.number if current is not None else None,
        "versions": [
            {
                "version": version.number,
                "state": version.state.value,
                "is_wanted": version.number in model.wanted,
                "error": version.error,
                "digest": version.loaded.predictor.release.digest if version.loaded is not None else None,
            }
            for version in sorted(model.versions.values(), key=lambda one: -one.number)
        ],
    }


def _json(value: Any) -> Response:
    return Response(200, orjson.dumps(value))


def _listed(values: Any) -> str:
    return ", ".join(map(str, values)) or "none"
