"""Descriptions of messages in, one pool of the server's own that knows them out."""

from __future__ import annotations

from typing import Final

from google.protobuf import any_pb2, descriptor_pool, wrappers_pb2

# Not the process's pool, which refuses a second message of a name: TensorFlow and tritonclient bring the same ones.
POOL: Final = descriptor_pool.DescriptorPool()
for known in (any_pb2, wrappers_pb2):
    POOL.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
