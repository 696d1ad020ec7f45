"""The bytes of a protobuf message in, the message out, unless they would grow many times over as they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar, cast

from endcap.serving.errors import RequestError

if TYPE_CHECKING:  # a server of JSON alone does without protobuf
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

    MessageT = TypeVar("MessageT", bound=Message)

# An empty message in a message takes two bytes on the wire and 130 in memory: 16 MiB of them a gigabyte. A smaller whole
# can't grow to much, and isn't looked through.
SMALL_BYTES: Final = 256 * 2**10
MAX_FIELDS: Final = 2**20
# As many fields as a message in a message counts for.
_FIELDS_PER_MESSAGE: Final = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}


def parse(kind: type[MessageT], raw: bytes) -> MessageT:
    """The message. Raises RequestError (413) for one of too many parts, protobuf's DecodeError for other bytes."""
    if len(raw) > SMALL_BYTES:
        _count(raw, 0, len(raw), cast("Descriptor", kind.DESCRIPTOR), MAX_FIELDS)
    return kind.FromString(raw)


def _count(raw: bytes, position: int, end: int, descriptor: Descriptor, left: int) -> int:
    """How many fields may still come behind this part. Broken bytes are left to who parses them."""
    fields = descriptor.fields_by_number
    while position < end:
        tag, position = _varint(raw, position, end)
        left -= 1
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(raw, position, end)
        elif kind == _BYTES:
            size, position = _varint(raw, position, end)
            field = fields.get(tag >> 3)
            if field is not None and field.message_type is not None:
                left = _count(raw, position, min(position + size, end), field.message_type, left - _FIELDS_PER_MESSAGE)
            position += size
        elif kind in _FIXED_SIZES:
            position += _FIXED_SIZES[kind]
        else:
            return left
        if left < 0:
            raise RequestError(413, "The message has too many parts. Send the request in several.")
    return left


def _varint(raw: bytes, position: int, end: int) -> tuple[int, int]:
    """A number, and where the next field begins."""
    number = shift = 0
    while position < end and shift < 64:
        byte = raw[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
    return number, end
