"""The Host and Origin headers of a request in, a refusal out where a web page of somebody else's asks through a browser.

A page can have its own name resolve to 127.0.0.1 and then read what a server there answers: the browser takes both for one
site. Its requests still carry that name in Host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from endcap.contracts.errors import InputError
from endcap.serving.errors import RequestError

# No site on the internet can have such a name.
_INNER_ENDS: Final = (".localhost", ".local", ".internal")
_MAX_REMEMBERED: Final = 1000


class Hosts:
    """The names under which a server on loopback is asked."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """Take further names."""
        self._allowed = frozenset(name.lower() for name in allowed)
        self._good: set[bytes] = set()

    def check(self, host: bytes) -> None:
        """Refuse (403) a Host that isn't an address, a name without a dot, an inner name or an allowed one."""
        if host in self._good:
            return
        name = _name_of(host.decode(errors="replace").lower())
        if not (name in self._allowed or "." not in name or name.endswith(_INNER_ENDS) or _is_address(name)):
            raise RequestError(
                403,
                "This server answers on this machine alone, under localhost or an address. Ask it so, or start it with "
                "--allowed-host and the name in the Host header.",
            )
        if len(self._good) < _MAX_REMEMBERED:
            self._good.add(host)


def _name_of(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, POST"),
    (
        b"access-control-allow-headers",
        b"authorization, content-encoding, content-type, x-request-id, x-request-timeout-ms",
    ),
    (b"access-control-max-age", b"600"),
)
_ORIGIN: Final = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")


class Origins:
    """The sites whose pages may read answers."""

    def __init__(self, origins: Iterable[str]) -> None:
        """Take them as browsers write them. Raises InputError for what is no origin."""
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise InputError(
                    f"--cors-origin {origin}: expected a site as browsers name it, such as https://shop.example, in lower "
                    "case, without a path; there is no wildcard."
                )
        self._known = frozenset(origin.encode() for origin in origins)

    def __contains__(self, origin: bytes) -> bool:
        """Whether it may."""
        return origin in self._known

    @staticmethod
    def headers(origin: bytes, *, is_preflight: bool = False) -> tuple[tuple[bytes, bytes], ...]:
        """What tells the browser so."""
        granted = ((b"access-control-allow-origin", origin), (b"vary", b"origin"))
        if is_preflight:
            return granted + _PREFLIGHT
        return (*granted, (b"access-control-expose-headers", b"retry-after, x-request-id"))
