"""Overrides such as `experiment=baseline training.num_epochs=3` in, one checked Configuration out.

Hydra composes (files in the package's `conf/`, files of the same layout in a workspace's `conf/` before them);
pydantic checks. Every complaint names the file or override, the key, what was expected and the nearest right name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

import endcap
from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import InputError

PACKAGED_CONF = Path(endcap.__file__).parent / "conf"
_GROUPS = ("experiment", "features", "model")


@dataclass(frozen=True)
class _Origins:
    """Where keys were set: overrides first, then files, the strongest first; each with the prefix of its keys."""

    overrides: dict[str, str]
    files: list[tuple[Path, tuple[str, ...]]]

    def of(self, key: Sequence[str]) -> str:
        dotted = ".".join(key)
        for name, text in self.overrides.items():
            if dotted == name or dotted.startswith(f"{name}."):
                return f"the override {text}"
        for depth in range(len(key), 0, -1):
            for path, prefix in self.files:
                if _has(path, prefix, tuple(key[:depth])):
                    return str(path)
        return str(self.files[0][0])


def load_configuration(overrides: Sequence[str] = (), workspace_conf: Path | None = None) -> Configuration:
    """Compose and check a configuration.

    Raises InputError for anything wrong, every problem in one message.
    """
    folders = [folder for folder in (workspace_conf, PACKAGED_CONF) if folder is not None and folder.is_dir()]
    choices = _check_overrides(list(overrides), folders)
    search_path = (
        [f"hydra.searchpath=[{workspace_conf.resolve().as_uri()}]"] if len(folders) == 2 and workspace_conf else []
    )
    try:
        with initialize_config_dir(config_dir=str(PACKAGED_CONF), version_base="1.3", job_name="endcap"):
            composed = compose("config", overrides=[*_forced(overrides), *search_path])
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise InputError(f"The configuration can't be composed: {_first_line(error)}") from error
    assert isinstance(values, dict)  # noqa: S101 - a composed configuration is a mapping
    try:
        return Configuration.model_validate(values)
    except ValidationError as error:
        origins = _origins(list(overrides), choices, folders)
        raise InputError("\n".join(_explain(error, origins))) from error


def _forced(overrides: Sequence[str]) -> list[str]:
    """A key of the schema that no file sets is added (`++`), since its name has been checked already."""
    return [text if text.split("=")[0] in _GROUPS or text.startswith("+") else f"++{text}" for text in overrides]


def available(group: str, folders: Sequence[Path]) -> list[str]:
    """Names that `group=NAME` accepts."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _check_overrides(overrides: list[str], folders: list[Path]) -> dict[str, str]:
    choices: dict[str, str] = {}
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            raise InputError(
                f"{text!r} is no override: {_first_line(error)}. Write key=value, such as training.num_epochs=3."
            ) from error
        key = override.key_or_group
        if key.startswith("hydra") or override.is_delete() or override.is_sweep_override():
            raise InputError(
                f"The override {text!r} is not taken here: write key=value for a key of the configuration."
            )
        if key in _GROUPS:
            choices[key] = _check_choice(key, str(override.value()), text, folders)
        elif not override.is_add():
            _check_key(key, text)
    return choices


def _check_choice(group: str, name: str, text: str, folders: list[Path]) -> str:
    names = available(group, folders)
    if name not in names:
        raise InputError(
            f"The override {text!r} names no {group}: found {name!r}, expected one of {', '.join(names)}."
            + _nearest(name, names)
        )
    return name


def _check_key(key: str, text: str) -> None:
    node: Any = Configuration
    parts = key.split(".")
    for depth, part in enumerate(parts):
        names = _names_below(node)
        if names is None:  # a mapping of the user's own names, such as features.buyer
            node = _value_type(node)
            continue
        if part not in names:
            where = ".".join(parts[:depth]) or "the configuration"
            raise InputError(
                f"The override {text!r} has an unknown key: {where} has no {part!r}; it has {', '.join(sorted(names))}."
                + _nearest(part, names, ".".join(parts[:depth]))
            )
        node = names[part]


def _names_below(node: Any) -> dict[str, Any] | None:
    """Fields of the model that an annotation holds; None for a mapping with free names, {} for a plain value."""
    for candidate in _alternatives(node):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return {name: field.annotation for name, field in candidate.model_fields.items()}
        if get_origin(candidate) in (dict, list):
            return None
    return {}


def _value_type(node: Any) -> Any:
    for candidate in _alternatives(node):
        if get_origin(candidate) in (dict, list):
            return get_args(candidate)[-1]
    return Any


def _alternatives(node: Any) -> Iterator[Any]:
    if get_origin(node) in (Union, UnionType):
        yield from get_args(node)
    else:
        yield node


def _origins(overrides: list[str], choices: dict[str, str], folders: list[Path]) -> _Origins:
    experiment = choices.get("experiment", "baseline")
    named: list[tuple[str, tuple[str, ...]]] = [(f"experiment/{experiment}.yaml", ())]
    for group in ("features", "model"):
        names = [choices[group]] if group in choices else available(group, folders)
        named.extend((f"{group}/{name}.yaml", (group,)) for name in names)
    named.append(("config.yaml", ()))
    files = [(folder / name, prefix) for name, prefix in named for folder in folders if (folder / name).is_file()]
    keys = {text.split("=", 1)[0].lstrip("+"): text for text in overrides}
    return _Origins({key: text for key, text in keys.items() if key not in _GROUPS}, files)


def _has(path: Path, prefix: tuple[str, ...], key: tuple[str, ...]) -> bool:
    if key[: len(prefix)] != prefix or len(key) == len(prefix):
        return False
    node = yaml.safe_load(path.read_text(encoding="utf-8"))
    for part in key[len(prefix) :]:
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            return False
    return True


def _explain(error: ValidationError, origins: _Origins) -> Iterator[str]:
    for problem in error.errors():
        key = [str(part) for part in problem["loc"]]
        where, dotted = origins.of(key), ".".join(key) or "the configuration"
        if problem["type"] == "extra_forbidden":
            names = _names_below(_annotation(key[:-1])) or {}
            expected = f"unknown key; expected one of {', '.join(sorted(names))}." + _nearest(key[-1], names)
            yield f"{where}: {dotted}: {expected}"
        elif problem["type"] == "missing":
            yield f"{where}: {dotted}: missing; expected {_expected(_annotation(key))}. Add it to the file or as {dotted}=…"
        elif problem["type"] == "value_error":
            yield f"{where}: {dotted}: {problem['ctx']['error']}"
        else:
            found = repr(problem["input"])
            expected = problem["msg"].removeprefix("Input should be ")
            near = ""
            if problem["type"] == "literal_error" and isinstance(problem["input"], str):
                near = _nearest(problem["input"], [str(value) for value in get_args(_annotation(key))])
            yield f"{where}: {dotted}: found {found[:80]}, expected {expected}.{near}"


def _annotation(key: Sequence[str]) -> Any:
    node: Any = Configuration
    for part in key:
        names = _names_below(node)
        node = _value_type(node) if names is None else names.get(part, Any)
    return node


def _expected(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation))


def _nearest(name: str, names: Any, prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" Did you mean {prefix + '.' if prefix else ''}{close[0]}?" if close else ""


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
