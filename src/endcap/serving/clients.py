"""A caller's name or address in, leave to go on out, or a refusal where one client asks for more than its share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from endcap.serving.errors import RequestError
from endcap.serving.tokens import Caller

# Clients that are remembered, before those that are idle are forgotten.
_MANY: Final = 10_000
_TIDY_SECONDS: Final = 1.0


class Client(msgspec.Struct):
    """What one client has left, and has under way."""

    allowance: float
    """Requests that it may send at once."""
    seen_at: float
    num_under_way: int = 0

    def leave(self, _done: object = None) -> None:
        """One of its requests has come to its end."""
        self.num_under_way -= 1


class Clients:
    """Limits by client: the holder of a token by its name, others by their address (of IPv6 the network of 64 bits)."""

    def __init__(
        self,
        requests_per_second: float | None = None,
        concurrent_requests: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the limits of clients whose token has none of its own; None: no limit."""
        self._requests_per_second, self._concurrent_requests = requests_per_second, concurrent_requests
        self._clock = clock
        self._known: dict[str, Client] = {}
        self._tidied_at = 0.0

    @property
    def is_unlimited(self) -> bool:
        """Whether there are no limits but those of tokens."""
        return self._requests_per_second is None and self._concurrent_requests is None

    @property
    def num_known(self) -> int:
        """Clients that are remembered."""
        return len(self._known)

    def enter(self, caller: Caller | None, address: str) -> Client | None:
        """Take up a request; `leave` what is given when it is over. None: the client has no limits.

        A client may send a second's worth of requests at once. Raises RequestError (429) with Retry-After.
        """
        rate, at_once = self._requests_per_second, self._concurrent_requests
        if caller is not None:
            rate = caller.requests_per_second or rate
            at_once = caller.concurrent_requests or at_once
        if rate is None and at_once is None:
            return None
        now = self._clock()
        client = self._client(caller, address, max(rate or 1.0, 1.0), now)
        if at_once is not None and client.num_under_way >= at_once:
            raise _too_many(f"{at_once:,} requests at once", 1)
        if rate is not None:
            most = max(rate, 1.0)
            client.allowance = min(client.allowance + (now - client.seen_at) * rate, most)
            client.seen_at = now
            if client.allowance < 1:
                raise _too_many(f"{rate:,g} requests a second", math.ceil((1 - client.allowance) / rate))
            client.allowance -= 1
        client.num_under_way += 1
        return client

    def _client(self, caller: Caller | None, address: str, allowance: float, now: float) -> Client:
        key = f"={caller.name}" if caller is not None else _network_of(address)
        client = self._known.get(key)
        if client is None:
            if len(self._known) >= _MANY and now - self._tidied_at >= _TIDY_SECONDS:
                self._tidy(now)
            client = self._known[key] = Client(allowance, now)
        return client

    def _tidy(self, now: float) -> None:
        """Forget those that have had time to gather a second's worth again."""
        self._tidied_at = now
        seconds = max(1.0, 1 / (self._requests_per_second or 1.0))
        idle = [
            key
            for key, one in self._known.items()
            if not one.num_under_way and now - one.seen_at >= seconds and key[:1] != "="
        ]
        for key in idle:
            del self._known[key]


def address_of(peer: Any) -> str:
    """The address of a socket's other end."""
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""


def _network_of(address: str) -> str:
    if ":" not in address:
        return address
    import ipaddress

    try:
        network = ipaddress.ip_network((address.partition("%")[0], 64), strict=False)
    except ValueError:
        return address
    return str(network)


def _too_many(limit: str, seconds: int) -> RequestError:
    return RequestError(
        429,
        f"Too many requests of one client: the limit is {limit}. Send the request again after the seconds in Retry-After.",
        ((b"retry-after", str(max(1, seconds)).encode()),),
    )
