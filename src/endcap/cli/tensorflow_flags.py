"""TensorFlow Serving's command line in, that of `endcap serve` out: an entry script changes one word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from endcap.contracts.errors import InputError

_NAMES: Final = {
    "model_name": "model-name",
    "model_base_path": "base-path",
    "model_config_file": "model-config-file",
    "rest_api_port": "port",
    "enable_batching": "batching",
    "batching_parameters_file": "batching-parameters-file",
    "file_system_poll_wait_seconds": "poll-seconds",
    "rest_api_timeout_in_ms": "timeout-ms",
}
_SWITCHES: Final = {"enable_batching"}
_TRUE: Final = {"true", "t", "yes", "y", "1"}
_FALSE: Final = {"false", "f", "no", "n", "0"}
# Of TensorFlow's runtime, its threads and its logs: there is nothing here that they could tell.
_MEANINGLESS: Final = {
    "rest_api_num_threads",
    "tensorflow_session_parallelism",
    "tensorflow_intra_op_parallelism",
    "tensorflow_inter_op_parallelism",
    "per_process_gpu_memory_fraction",
    "enable_model_warmup",
    "flush_filesystem_caches",
    "saved_model_tags",
    "use_tflite_model",
    "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
    "num_load_threads",
    "num_unload_threads",
    "prefer_tflite_model",
    "remove_unused_fields_from_bundle_metagraph",
    "v",
}


def translate(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments behind `serve`, TensorFlow Serving's own replaced, and the names of those that are passed over.

    Where one of them is there, `--port` means gRPC, as it does there. Raises InputError for a switch that is neither
    true nor false.
    """
    known = _NAMES.keys() | _MEANINGLESS
    if not any(_name_of(argument) in known for argument in arguments):
        return list(arguments), []
    translated: list[str] = []
    passed_over: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name = _name_of(argument)
        if name not in known and name != "port":
            translated.append(argument)
            continue
        _, equals, value = argument.partition("=")
        if not equals and name not in _SWITCHES and rest and not rest[0].startswith("--"):
            equals, value = "=", rest.pop(0)
        if name in _SWITCHES:
            translated += [f"--{_NAMES[name]}"] if _is_on(name, value if equals else "true") else []
        elif name in _MEANINGLESS:
            passed_over.append(name)
        else:
            translated.append(f"--{_NAMES.get(name, 'grpc-port')}{equals}{value}")
    return translated, passed_over


def _name_of(argument: str) -> str:
    """The flag's name, spelled with underscores; empty for what is no flag."""
    return (
        argument[2:].partition("=")[0]
        if argument.startswith("--") and "-" not in argument[2:].partition("=")[0]
        else ""
    )


def _is_on(name: str, value: str) -> bool:
    if value.lower() not in _TRUE | _FALSE:
        raise InputError(f"--{name}: expected true or false; found {value!r}.")
    return value.lower() in _TRUE
