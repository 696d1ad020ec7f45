"""The value of an Authorization header in, who sent it out: one token of the environment, and those of a file."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from endcap.contracts.errors import InputError
from endcap.serving.errors import RequestError
from endcap.serving.token_file import Scope, hash_of, read_tokens

logger = logging.getLogger(__name__)


class Caller(msgspec.Struct, frozen=True):
    """Whoever sends a token."""

    name: str
    """What logs and limits know the caller by."""
    scopes: frozenset[Scope]
    """What it may ask for."""
    models: frozenset[str] | None = None
    """Of which models; None: of all."""
    requests_per_second: float | None = None
    """Predictions that are answered; None: as the server's own limit says."""
    concurrent_requests: int | None = None
    """Predictions that are under way at once; None: as the server's own limit says."""


class Tokens:
    """All tokens of a server."""

    def __init__(self, token: str | None = None, file: Path | None = None) -> None:
        """Take the one `token` that may predict and read, or the file of others, or both.

        Raises InputError for a file that can't be read.
        """
        self._fixed: dict[bytes, Caller] = {}
        if token is not None:
            self._fixed[hash_of(token)] = Caller("default", frozenset({"predict", "read"}))
        self._file = file
        self._seen = _state_of(file) if file is not None else None
        self._callers: Mapping[bytes, Caller] = self._fixed
        if file is not None:
            self._callers = _callers_in(file) | self._fixed

    def authorize(self, header: bytes, scope: Scope | None = None, model: str | None = None) -> Caller:
        """Who sent this header, and may use `scope`, of `model` where that is one.

        Raises RequestError: 401 without a bearer token, 403 for one that is unknown or may not do that.
        """
        scheme, _, given = header.partition(b" ")
        given = given.strip()
        if scheme.lower() != b"bearer" or not given:
            raise RequestError(
                401,
                "This server asks for a token: send the header Authorization: Bearer TOKEN.",
                ((b"www-authenticate", b"Bearer"),),
            )
        # Hashes are looked up, never tokens: how long that takes says nothing of how near a guess is.
        caller = self._callers.get(hashlib.sha256(given).digest())
        if caller is None:
            raise RequestError(403, "The token is none of this server's. Ask its operator.")
        if scope is not None and scope not in caller.scopes:
            raise RequestError(403, f"This token may not {scope}; it may {', '.join(sorted(caller.scopes))}.")
        if model is not None and caller.models is not None and model not in caller.models:
            raise RequestError(403, f"This token is not for this model, but for {', '.join(sorted(caller.models))}.")
        return caller

    def has(self, scope: Scope) -> bool:
        """Whether any token may be used for it."""
        return any(scope in caller.scopes for caller in self._callers.values())

    def refresh(self) -> None:
        """Read the file again where it has changed; of one that can't be read the log tells, and all stays as it was."""
        if self._file is None or (state := _state_of(self._file)) == self._seen:
            return
        self._seen = state
        try:
            callers = _callers_in(self._file)
        except InputError as error:
            logger.error("The tokens stay as they were: %s", error)
        else:
            self._callers = callers | self._fixed
            logger.info("%s was read again: %d tokens", self._file, len(callers))


def _callers_in(file: Path) -> dict[bytes, Caller]:
    return {
        bytes.fromhex(entry.sha256): Caller(
            entry.name,
            frozenset(entry.scopes),
            None if entry.models is None else frozenset(entry.models),
            entry.requests_per_second,
            entry.concurrent_requests,
        )
        for entry in read_tokens(file)
    }


def _state_of(file: Path) -> tuple[int, ...] | None:
    """What changes when the file does; None where it isn't there."""
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino
