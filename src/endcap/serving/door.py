"""An address, a port and a wish for authentication in, a bound socket and tokens out: checked before anything is loaded."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
from pathlib import Path
from typing import Final

import msgspec

from endcap.contracts.errors import InputError
from endcap.serving.origins import Hosts
from endcap.serving.settings import ServerSettings
from endcap.serving.tokens import Tokens

logger = logging.getLogger(__name__)

TOKEN_VARIABLE: Final = "ENDCAP_TOKEN"  # noqa: S105 (the variable's name, no secret)
BACKLOG: Final = 2048
DEFAULT_GRPC_PORT: Final = 8500


class Guard(msgspec.Struct, frozen=True):
    """Who is let in."""

    tokens: Tokens | None
    """What predictions and what is read need one of; None: nothing."""
    admin_tokens: Tokens | None
    """What the admin port needs one of; None: nothing."""
    hosts: Hosts | None
    """Names under which to ask a server that needs no token; None: any."""
    admin_hosts: Hosts | None
    """Names under which to ask an admin port that needs no token; None: any."""

    def refresh(self) -> None:
        """Look whether the tokens changed."""
        for tokens in {self.tokens, self.admin_tokens}:
            if tokens is not None:
                tokens.refresh()


class Listeners(msgspec.Struct, frozen=True):
    """The sockets of a server, bound and listening."""

    rest: socket.socket
    """Predictions, and what is read."""
    admin: socket.socket | None
    """The admin port, where there is one."""

    def close(self) -> None:
        """Close all."""
        for listener in (self.rest, self.admin):
            if listener is not None:
                listener.close()


def guard_of(settings: ServerSettings) -> Guard:
    """Who is let in. Raises InputError where that isn't said, or there is no token to ask for."""
    tokens = _required_tokens(settings.host, settings.auth, settings.tokens_file)
    admin_tokens = tokens
    if admin_tokens is None and settings.tokens_file is not None:
        admin_tokens = Tokens(None, settings.tokens_file)
    if settings.admin_port is not None:
        make_one = "endcap tokens new NAME --scope admin --file FILE, and --tokens-file FILE"
        if admin_tokens is None and not is_loopback(settings.admin_host):
            raise InputError(
                f"The admin port on {settings.admin_host} can be reached from other machines and needs tokens: {make_one}; "
                "or --admin-host 127.0.0.1 to stay on this machine."
            )
        if admin_tokens is not None and not admin_tokens.has("admin"):
            raise InputError(f"No token has the scope admin, which the admin port asks for. Make one: {make_one}.")
    hosts = Hosts(settings.allowed_hosts)
    return Guard(
        tokens,
        admin_tokens,
        hosts if tokens is None and is_loopback(settings.host) else None,
        hosts if admin_tokens is None else None,
    )


def open_listeners(settings: ServerSettings) -> Listeners:
    """Bind what is to listen. Raises InputError where an address or a port can't be had."""
    rest = bind(settings.host, settings.port)
    try:
        admin = None if settings.admin_port is None else bind(settings.admin_host, settings.admin_port)
    except InputError:
        rest.close()
        raise
    return Listeners(rest, admin)


def _required_tokens(host: str, auth: str | None, file: Path | None = None) -> Tokens | None:
    """What requests need one of, None where they need none."""
    if auth not in (None, "token", "none"):
        raise InputError(f"auth is {auth!r}; expected token or none.")
    if auth is None and not is_loopback(host):
        raise InputError(
            f"{host} can be reached from other machines. Say --auth token (and set {TOKEN_VARIABLE}) to ask callers "
            "for a token, --auth none to serve anybody on purpose, or --host 127.0.0.1 to stay on this machine."
        )
    if auth is None and file is not None:
        raise InputError(f"There are tokens in {file}. Say --auth token to ask callers for one, or --auth none.")
    if auth != "token":
        return None
    token = os.environ.get(TOKEN_VARIABLE, "").strip() or None
    if token is None and file is None:
        raise InputError(
            f"Auth is token, but {TOKEN_VARIABLE} is not set. Put the token there, or give a file of tokens with "
            "--tokens-file, and start again."
        )
    return Tokens(token, file)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int, option: str = "--port", zero: str = "0 takes any free one") -> socket.socket:
    """A bound socket, before anything is loaded: a port in use is said at once."""
    if not 0 <= port <= 65535:
        raise InputError(f"Port {port} does not exist; expected 0 (any free one) to 65535.")
    try:
        # As bytes: names in letters of other scripts need a codec that takes as long to import as the rest of this.
        name = host.encode() if host.isascii() else host
        family, kind, protocol, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InputError(
            f"{host} is no address of this machine: {error.strerror}. Give one, such as 127.0.0.1."
        ) from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # Listening already refuses a second server on the port; connections wait until the release is loaded.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise InputError(_bind_problem(host, port, error, option, zero)) from error
    return listener


def free_grpc_port(host: str, wished: int | None) -> int:
    """The port that gRPC is to take, 0 for none: where none is wished for, 8500, unless another program has it.

    Raises InputError where the one that is wished for can't be had.
    """
    if wished == 0:
        return 0
    port = DEFAULT_GRPC_PORT if wished is None else wished
    try:
        bind(host, port, "--grpc-port", "0: no gRPC").close()
    except InputError as error:
        if wished is not None:
            raise
        logger.warning("There is no gRPC: %s", error)
        return 0
    return port


def _bind_problem(host: str, port: int, error: OSError, option: str, zero: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} of {host} is in use by another program. Stop that one, or give another with {option} "
            f"({zero})."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} needs more rights than this user has. Give one from 1024 up with {option}."
    return f"{host} port {port} can't be listened on: {error.strerror}. Give an address of this machine with --host."
