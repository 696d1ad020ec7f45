"""TensorFlow Serving's configuration files, in the text form of its messages, in; settings out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from endcap.contracts.errors import InputError
from endcap.serving.protos.tensorflow_serving_pb2 import BatchingParameters, ModelConfig, ModelServerConfig
from endcap.serving.settings import All, BatchingSettings, Latest, ModelSettings, Specific, VersionPolicy
from endcap.serving.sources import Source

T = TypeVar("T", bound=Message)

_PLATFORMS = ("", "tensorflow", "endcap")
_NUMBERS = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")


def read_batching(path: Path) -> BatchingSettings:
    """The parameters of a `--batching_parameters_file`; those that it leaves out have their defaults.

    Raises InputError for a file that can't be read as one, and for numbers that can't be.
    """
    parameters = _parse(path, BatchingParameters())
    numbers = {name: getattr(parameters, name).value for name in _NUMBERS if parameters.HasField(name)}
    for name, number in numbers.items():
        if number < (0 if name == "batch_timeout_micros" else 1):
            raise InputError(f"{path}: {name} is {number}; expected a positive number.")
    sizes = list(parameters.allowed_batch_sizes)
    if sizes:
        # Graphs here take batches of any size: the largest allowed one bounds them, and none needs to be filled up.
        if sizes != sorted(sizes) or sizes[-1] != numbers.get("max_batch_size", sizes[-1]):
            raise InputError(f"{path}: allowed_batch_sizes are {sizes}; expected them to rise up to max_batch_size.")
        numbers.setdefault("max_batch_size", sizes[-1])
    return BatchingSettings(**numbers, pad_variable_length_inputs=parameters.pad_variable_length_inputs)


def read_models(path: Path, source_at: Callable[[str], Source]) -> list[ModelSettings]:
    """The models of a `--model_config_file`. Raises InputError for a file that can't be read as one."""
    return models_of(_parse(path, ModelServerConfig()), source_at, str(path))


def models_of(config: ModelServerConfig, source_at: Callable[[str], Source], where: str) -> list[ModelSettings]:
    """The models that a configuration lists. Raises InputError, which names it as `where`."""
    models = [_model_of(one, source_at, where) for one in config.model_config_list.config]
    if not models:
        raise InputError(f"{where}: expected model_config_list with a config for each model; found none.")
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise InputError(f"{where}: two models have one name: {', '.join(names)}. Give each its own.")
    return models


def _model_of(config: ModelConfig, source_at: Callable[[str], Source], where: str) -> ModelSettings:
    if not config.name or not config.base_path:
        raise InputError(f"{where}: a config has no {'base_path' if config.name else 'name'}; expected both in each.")
    if config.model_platform not in _PLATFORMS:
        raise InputError(
            f"{where}: model_platform of {config.name} is {config.model_platform!r}; expected endcap, or nothing."
        )
    return ModelSettings(
        config.name,
        source_at(config.base_path),
        _policy_of(config, where),
        dict(config.version_labels),
        config.base_path,
    )


def _policy_of(config: ModelConfig, where: str) -> VersionPolicy:
    chosen = config.model_version_policy
    match chosen.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            if not chosen.specific.versions:
                raise InputError(f"{where}: the policy of {config.name} is specific; expected versions in it.")
            return Specific(tuple(chosen.specific.versions))
        case _:
            return Latest(chosen.latest.num_versions or 1)


def _parse(path: Path, message: T) -> T:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}. Give a text file.") from error
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise InputError(
            f"{path} is no {type(message).__name__} in protocol buffers' text form: {str(error).rstrip('.')}. "
            "docs/serving-versions.md shows one."
        ) from error
    return message
