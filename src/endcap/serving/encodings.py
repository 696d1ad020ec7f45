"""Bodies compressed by gzip in, plain ones out within a limit, and the other way round where it pays."""

from __future__ import annotations

import asyncio
import re
import zlib
from typing import Any, Final

from endcap.serving.connection import MAX_BODY_BYTES, too_large
from endcap.serving.errors import RequestError

# A hundred products and their scores take 2 to 3 KB: what compressing those costs in processor time, no network gives
# back (docs/serving-operations.md).
MIN_BYTES: Final = 16 * 2**10
# What takes longer than a millisecond or two is not for the event loop.
MAX_BYTES_ON_LOOP: Final = 64 * 2**10
_LEVEL: Final = 1
# A window of 32 KiB, and gzip's header.
_WINDOW: Final = 31
_GZIP: Final = re.compile(rb"(?:^|,)\s*(?:x-)?gzip\s*(?:;\s*q=([0-9.]+)\s*)?(?:,|$)", re.IGNORECASE)


class Packed(bytes):
    """A body that is compressed."""


def accepts_gzip(header: bytes) -> bool:
    """Whether an Accept-Encoding header names gzip, and not as what is unwanted."""
    found = _GZIP.search(header)
    return found is not None and (found[1] is None or found[1].strip(b"0.") != b"")


def is_gzip(header: bytes) -> bool:
    """Whether a Content-Encoding header says gzip. Raises RequestError (415) where it says something unknown."""
    coding = header.strip().lower()
    if coding in (b"", b"identity"):
        return False
    if coding not in (b"gzip", b"x-gzip"):
        raise RequestError(
            415, "This server reads bodies as they are or compressed by gzip.", ((b"accept-encoding", b"gzip"),)
        )
    return True


def unpack(body: bytes, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """What was compressed. Raises RequestError: 413 as soon as it is over `max_bytes`, 400 for what is no gzip."""
    unpacker = zlib.decompressobj(_WINDOW)
    try:
        plain = unpacker.decompress(body, max_bytes + 1)
    except zlib.error:
        raise RequestError(400, "The body is not compressed by gzip, as its content-encoding says.") from None
    if len(plain) > max_bytes:
        raise too_large()
    # One stream alone: of many small ones, each would cost a copy of all that follow.
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError(400, "The compressed body is cut off, or something follows it. Send one whole gzip stream.")
    return plain


def pack(body: bytes) -> Packed:
    """The body, compressed fast rather than small."""
    packer = zlib.compressobj(_LEVEL, wbits=_WINDOW)
    return Packed(packer.compress(body) + packer.flush())


def pack_apart(answer: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """The answer, compressed on a thread where it is large; cancelled, the answer itself is."""
    loop = asyncio.get_running_loop()
    packed: asyncio.Future[Any] = loop.create_future()

    def settle(done: asyncio.Future[Any]) -> None:
        if packed.done():
            return
        if done.cancelled():
            packed.cancel()
        elif (error := done.exception()) is not None:
            packed.set_exception(error)
        elif (
            isinstance(body := done.result(), bytes) and not isinstance(body, Packed) and len(body) > MAX_BYTES_ON_LOOP
        ):
            loop.run_in_executor(None, pack, body).add_done_callback(settle)
        else:
            packed.set_result(body)

    answer.add_done_callback(settle)
    packed.add_done_callback(lambda done: answer.cancel() if done.cancelled() else None)
    return packed
