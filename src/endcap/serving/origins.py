"""The Host and Origin headers of a request in, a refusal out where a web page of somebody else's asks through a browser.

A page can have its own name resolve to 127.0.0.1 and then read what a server there answers: the browser takes both for one
site. Its requests still carry that name in Host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

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
