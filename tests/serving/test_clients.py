"""Limits of one client: by its token's name or its address, with the seconds after which to ask again."""

from __future__ import annotations

import pytest

from endcap.serving.clients import Clients, address_of
from endcap.serving.errors import RequestError
from endcap.serving.tokens import Caller


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refused(clients: Clients, address: str = "10.0.0.1", caller: Caller | None = None) -> int:
    """Seconds until the next try; 0: not refused."""
    try:
        clients.enter(caller, address)
    except RequestError as error:
        return int(dict(error.headers)[b"retry-after"]) if error.status == 429 else -1
    return 0


def test_without_limits_nobody_is_remembered() -> None:
    clients = Clients()
    assert clients.is_unlimited
    assert clients.enter(None, "10.0.0.1") is None
    assert clients.enter(Caller("shop", frozenset({"predict"})), "10.0.0.1") is None
    assert clients.num_known == 0


def test_a_second_has_so_many_requests_and_no_more() -> None:
    clock = Clock()
    clients = Clients(requests_per_second=4, clock=clock)
    assert [refused(clients) for _ in range(6)] == [0, 0, 0, 0, 1, 1]
    assert refused(clients, "10.0.0.2") == 0
    clock.now += 0.5
    assert [refused(clients) for _ in range(3)] == [0, 0, 1]
    clock.now += 100
    assert [refused(clients) for _ in range(5)] == [0, 0, 0, 0, 1]


def test_less_than_one_a_second() -> None:
    clock = Clock()
    clients = Clients(requests_per_second=0.1, clock=clock)
    assert [refused(clients), refused(clients)] == [0, 10]
    clock.now += 9
    assert refused(clients) == 1
    clock.now += 1.001
    assert refused(clients) == 0


def test_so_many_at_once_and_no_more() -> None:
    clients = Clients(concurrent_requests=2)
    one, other = clients.enter(None, "a"), clients.enter(None, "a")
    assert refused(clients, "a") == 1
    assert one is not None
    assert one is other
    one.leave()
    assert [refused(clients, "a"), refused(clients, "a")] == [0, 1]


def test_a_tokens_own_limits_count_more_and_follow_its_name() -> None:
    clock = Clock()
    clients = Clients(requests_per_second=1, clock=clock)
    shop = Caller("shop", frozenset({"predict"}), None, 3, None)
    assert [refused(clients, f"10.0.0.{i}", shop) for i in range(4)] == [0, 0, 0, 1]
    assert [refused(clients, "10.0.0.1"), refused(clients, "10.0.0.1")] == [0, 1]
    alone = Clients()
    assert [refused(alone, "x", Caller("a", frozenset(), None, None, 1)) for _ in range(2)] == [0, 1]


def test_an_ipv6_network_is_one_client() -> None:
    clients = Clients(requests_per_second=1, clock=Clock())
    assert [refused(clients, f"2001:db8::{i}") for i in (1, 2)] == [0, 1]
    assert refused(clients, "2001:db8:0:1::1") == 0
    assert refused(clients, "fe80::1%eth0") == 0


def test_idle_clients_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("endcap.serving.clients._MANY", 10)
    clock = Clock()
    clients = Clients(requests_per_second=1, clock=clock)
    busy = clients.enter(None, "busy")
    for i in range(10):
        clients.enter(None, f"a{i}")
    clock.now += 2
    clients._known["a3"].num_under_way = 0
    for one in list(clients._known.values()):
        if one is not busy:
            one.num_under_way = 0
    clients.enter(None, "b")
    assert clients.num_known == 2


def test_the_address_is_the_sockets() -> None:
    assert [address_of(peer) for peer in (("10.0.0.1", 5), ("::1", 5, 0, 0), None, "")] == ["10.0.0.1", "::1", "", ""]
