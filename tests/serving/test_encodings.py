"""Compressed bodies: taken within the cap of what they unpack to, given where it pays."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.serving.encodings import (
    MAX_BYTES_ON_LOOP,
    MIN_BYTES,
    Packed,
    accepts_gzip,
    is_gzip,
    pack,
    pack_apart,
    unpack,
)
from endcap.serving.errors import RequestError

FULL = {"user_id": "cyd", "city": "Oslo", "age": 40}


@given(st.binary(max_size=2000))
def test_what_is_packed_is_unpacked(body: bytes) -> None:
    assert unpack(gzip.compress(body)) == body
    assert gzip.decompress(pack(body)) == body


def test_b2_the_cap_holds_after_decompression() -> None:
    """B2: 16 MiB of zeros are 16 KB on the wire; no more than the cap is ever unpacked."""
    assert unpack(gzip.compress(bytes(1000)), 1000) == bytes(1000)
    for size in (1001, 100_000_000):
        packed = gzip.compress(bytes(size), 1) if size < 10_000 else _bomb(size)
        with pytest.raises(RequestError) as caught:
            unpack(packed, 1000)
        assert caught.value.status == 413


def _bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(bytes(1_000_000)) for _ in range(size // 1_000_000)), packer.flush()])


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", gzip.compress(b"abc", mtime=0)[:-1], gzip.compress(b"a", mtime=0) * 2, gzip.compress(b"a", mtime=0) + b"\0", zlib.compress(b"a"),
     gzip.compress(b"abc", mtime=0)[:-5] + b"wrong"],
)  # fmt: skip
def test_what_is_no_whole_gzip_stream_is_400(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        unpack(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("header", "accepts"),
    [(b"gzip", True), (b"deflate, gzip;q=0.5, br", True), (b"GZIP", True), (b"x-gzip", True), (b"gzip;q=1", True), (b"", False),
     (b"identity", False), (b"gzip;q=0", False), (b"gzip; q=0.0", False), (b"br,gzip ; q=0.001", True), (b"gzipped", False)],
)  # fmt: skip
def test_gzip_is_given_to_those_who_ask(header: bytes, accepts: bool) -> None:
    assert accepts_gzip(header) is accepts


def test_another_coding_is_415() -> None:
    assert [is_gzip(header) for header in (b"gzip", b"GZIP ", b"identity", b"")] == [True, True, False, False]
    for header in (b"br", b"deflate", b"gzip, gzip"):
        with pytest.raises(RequestError) as caught:
            is_gzip(header)
        assert caught.value.status == 415


def test_large_answers_are_packed_apart_from_the_loop() -> None:
    large = os.urandom(MAX_BYTES_ON_LOOP + 1)

    async def play() -> None:
        loop = asyncio.get_running_loop()
        for body, packs in ((large, True), (large[:-1], False), (Packed(large), False)):
            answer: asyncio.Future[Any] = loop.create_future()
            packed = pack_apart(answer)
            answer.set_result(body)
            found = await packed
            assert (gzip.decompress(found) == body) if packs else (found is body)
        failing: asyncio.Future[Any] = loop.create_future()
        failed = pack_apart(failing)
        failing.set_exception(RequestError(504, "late"))
        with pytest.raises(RequestError):
            await failed
        for cancels_outer in (True, False):
            answer = loop.create_future()
            packed = pack_apart(answer)
            (packed if cancels_outer else answer).cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert answer.cancelled()
            assert packed.cancelled()

    asyncio.run(play())


def test_a_server_takes_and_gives_gzip(server: Any) -> None:
    body = gzip.compress(json.dumps({"instances": [FULL], "k": 3}).encode())
    plain = server.predict({"instances": [FULL], "k": 3})
    assert server.predict(body, {"content-encoding": "gzip"}).body == plain.body
    small = server.predict({"instances": [FULL], "k": 3}, {"accept-encoding": "gzip"})
    assert ("content-encoding" in small.headers, small.body) == (False, plain.body)
    for k, num_instances in ((1000, 1), (3000, 4)):
        asked = {"instances": [FULL] * num_instances, "k": k}
        answer = server.predict(asked, {"accept-encoding": "gzip, deflate"})
        assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "accept-encoding")
        unpacked = gzip.decompress(answer.content)
        assert len(unpacked) > MIN_BYTES
        assert json.loads(unpacked) == server.predict(asked).body
    assert server.predict(body[:-1], {"content-encoding": "gzip"}).status == 400
    assert server.predict(_bomb(20_000_000), {"content-encoding": "gzip"}).status == 413
    assert server.predict(body, {"content-encoding": "br"}).status == 415
    assert server.predict({"instances": [FULL]}).status == 200
