"""Names of messages in, their fields as TensorFlow Serving's and Triton's own packages have them out, as JSON. Run in .venv-clients."""

import importlib
import json
import pkgutil
import sys

import tensorflow_serving.apis
import tensorflow_serving.config
from google.protobuf import descriptor_pool
from tritonclient.grpc import service_pb2  # noqa: F401 (its messages join the pool)

importlib.import_module("tensorflow.core.example.example_pb2")
for package in (tensorflow_serving.apis, tensorflow_serving.config):
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.endswith("_pb2") and module.name not in ("session_service_pb2", "platform_config_pb2"):
            try:
                importlib.import_module(f"{package.__name__}.{module.name}")
            except ImportError as error:
                print(error, file=sys.stderr)

pool = descriptor_pool.Default()
found = {}
for name in sys.argv[1:]:
    message = pool.FindMessageTypeByName(name)
    found[name] = {field.name: [field.number, field.type, field.is_repeated] for field in message.fields}
print(json.dumps(found))
