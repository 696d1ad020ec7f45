"""An address, a port and a wish for authentication in, a bound socket and tokens out: checked before anything is loaded."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from pathlib import Path
from typing import Final

from endcap.contracts.errors import InputError
from endcap.serving.tokens import Tokens

TOKEN_VARIABLE: Final = "ENDCAP_TOKEN"  # noqa: S105 (the variable's name, no secret)
BACKLOG: Final = 2048


def required_tokens(host: str, auth: str | None, file: Path | None = None) -> Tokens | None:
    """What requests need one of, None where they need none.

    Raises InputError where it isn't said whether callers are asked for a token, or there is none to ask for.
    """
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


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, before anything is loaded: a port in use is said at once."""
    if not 0 <= port <= 65535:
        raise InputError(f"Port {port} does not exist; expected 0 (any free one) to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
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
        raise InputError(_bind_problem(host, port, error)) from error
    return listener


def _bind_problem(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} of {host} is in use by another program. Stop that one, or give another with --port "
            "(0 takes any free one)."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} needs more rights than this user has. Give one from 1024 up with --port."
    return f"{host} port {port} can't be listened on: {error.strerror}. Give an address of this machine with --host."
