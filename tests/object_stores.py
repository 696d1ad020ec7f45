"""Fixtures: a fresh bucket of Google Cloud Storage or S3 for each test, on an emulator behind a proxy that injects faults.

Any test may take them: `tests/conftest.py` imports them for all.
"""

from __future__ import annotations

import json
import secrets
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from endcap.workspace.locations import Location
from endcap.workspace.stores.patience import Patience
from tests.fault_proxy import FaultProxy, Rules

IMPATIENT = Patience(deadline_s=10, try_s=3, silence_s=1, first_wait_s=0.02, longest_wait_s=0.1)
"""Tests don't wait: a stall is over after a second, a retry comes at once."""


@dataclass(frozen=True)
class ObjectStore:
    """An emulator and the proxy before it."""

    proxy: FaultProxy
    make_bucket: Callable[[str], object]

    @property
    def rules(self) -> Rules:
        """What the proxy does to requests."""
        return self.proxy.rules


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[ObjectStore]:
    """An emulator of Google Cloud Storage in this process. Take `gcs_location` for a bucket in it."""
    with emulated_gcs() as store:
        yield store


@contextmanager
def emulated_gcs() -> Iterator[ObjectStore]:
    """The same for programs that are no tests."""
    from gcp_storage_emulator.server import Server

    server = Server("127.0.0.1", 0, in_memory=True)
    server.start()
    server._api._httpd.RequestHandlerClass.disable_nagle_algorithm = True  # else each answer waits for 40 ms
    host, port = server._api._httpd.server_address
    proxy = FaultProxy(host, port)
    buckets = f"http://{host}:{port}/storage/v1/b"
    try:
        yield ObjectStore(proxy, lambda name: _send("POST", buckets, json.dumps({"name": name}).encode()))
    finally:
        proxy.close()
        server.stop()


@pytest.fixture
def gcs_location(gcs_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    """An empty bucket of its own; STORAGE_EMULATOR_HOST points to the server until the test ends."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.proxy.url)
    bucket = f"shop-{secrets.token_hex(6)}"
    gcs_server.make_bucket(bucket)
    yield replace(Location.parse(f"gs://{bucket}"), patience=IMPATIENT)
    gcs_server.rules.reset()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ObjectStore]:
    """moto's server of S3 in this process. Take `s3_location` for a bucket in it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    proxy = FaultProxy(host, port)
    yield ObjectStore(proxy, lambda name: _send("PUT", f"http://{host}:{port}/{name}", b""))
    proxy.close()
    server.stop()


@pytest.fixture
def s3_location(s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    """An empty bucket of its own; AWS_ENDPOINT_URL and credentials are set until the test ends."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server.proxy.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"shop-{secrets.token_hex(6)}"
    s3_server.make_bucket(bucket)
    yield replace(Location.parse(f"s3://{bucket}"), patience=IMPATIENT)
    s3_server.rules.reset()


def listing(bucket: Location) -> str:
    """Every object of a bucket, a line each: its name, its size in bytes, its generation."""
    found = [(file.below(bucket), file.stat()) for file in bucket.list()]
    return "\n".join(f"{name:<64} {stat.num_bytes:>10,} {stat.generation}" for name, stat in found if stat)


def _send(method: str, url: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers, method=method)  # noqa: S310 - our own server's address
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        assert answer.status == 200
