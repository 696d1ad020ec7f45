"""Overrides such as `experiment=baseline training.num_epochs=3` in, one checked Configuration out.

Hydra composes (files in the package's `conf/`, files of the same layout in a workspace's `conf/` before them);
pydantic checks. Every complaint names the file or override, the key, what was expected and the nearest right name.
"""

from __future__ import annotations

import difflib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

import endcap
from endcap.contracts.configuration import Configuration, ModelConfig
from endcap.contracts.errors import ColumnsError, InputError
from endcap.contracts.features import FeatureConfig
from endcap.contracts.secrets import SECRET_KEYS

PACKAGED_CONF = Path(endcap.__file__).parent / "conf"
_ROOT = "config.yaml"
_GROUPS = ("experiment", "features", "model")
_SECRET_VALUE = re.compile(rf"((?:{'|'.join(SECRET_KEYS)})[\w.'\"]*\s*[=:]\s*)(?!secret://).+")
_Part = TypeVar("_Part", bound=BaseModel)


@dataclass(frozen=True)
class _Origins:
    """Where keys were set: overrides first, then files, the strongest first; each with the prefix of its keys."""

    overrides: dict[str, str]
    files: list[tuple[Path, tuple[str, ...]]]

    def of(self, key: Sequence[str]) -> str:
        dotted = ".".join(key)
        for name, text in self.overrides.items():
            if dotted == name or dotted.startswith(f"{name}."):
                return f"the override {_said(text)}"
        for depth in range(len(key), 0, -1):
            for path, prefix in self.files:
                if _has(path, prefix, tuple(key[:depth])):
                    return str(path)
        return next(self.below(key), str(self.files[0][0]))

    def below(self, key: Sequence[str]) -> Iterator[str]:
        """Overrides of keys below this one."""
        prefix = "".join(f"{part}." for part in key)
        return (
            f"the override {_said(text)}" for name, text in self.overrides.items() if prefix and name.startswith(prefix)
        )


def load_configuration(overrides: Sequence[str] = (), workspace_conf: Path | None = None) -> Configuration:
    """Compose and check a configuration.

    Raises InputError for anything wrong, every problem in one message.
    """
    folders = [folder for folder in (workspace_conf, PACKAGED_CONF) if folder is not None and folder.is_dir()]
    choices = _check_overrides(list(overrides), folders)
    try:
        composed = _compose(_forced(overrides), folders)
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"The configuration can't be composed: {_composing_problem(error, folders)}") from error
    assert isinstance(values, dict)  # noqa: S101 - a composed configuration is a mapping
    if not isinstance(values.get("experiment", ""), str):
        file = _origins(list(overrides), choices, folders).files[0][0]
        raise InputError(f"{file} sets no keys of the configuration: its first line has to be `# @package _global_`.")
    try:
        return Configuration.model_validate(values)
    except ValidationError as error:
        origins = _origins(list(overrides), choices, folders)
        raise InputError("\n".join(_explain(error, origins))) from error


def load_features(config: str, workspace_conf: Path | None = None) -> tuple[FeatureConfig, Path]:
    """Read and check a FeatureConfig alone: a file, or the name of one in a `conf/features`; also gives its file.

    Raises InputError for anything wrong, every problem in one message.
    """
    return _load_part("features", FeatureConfig, config, workspace_conf)


def load_model(config: str, workspace_conf: Path | None = None) -> tuple[ModelConfig, Path]:
    """Read and check a ModelConfig alone, as `load_features` does."""
    return _load_part("model", ModelConfig, config, workspace_conf)


def overridden(given: dict[str, Any], overrides: Sequence[str], groups: Sequence[str], origin: Path) -> Configuration:
    """A configuration from its values, which `origin` holds, with overrides of keys in some groups alone.

    Raises InputError for anything wrong, every problem in one message.
    """
    values = OmegaConf.create(given)
    parser = OverridesParser.create()
    for text in overrides:
        chosen = _check_overrides([text], [PACKAGED_CONF])
        override = parser.parse_override(text)
        if chosen or override.key_or_group.split(".")[0] not in groups:
            raise InputError(
                f"The override {_said(text)!r} is not taken here: expected a key of {' or '.join(groups)}, such as "
                "training.learning_rate=0.01."
            )
        OmegaConf.update(values, override.key_or_group, override.value(), merge=False, force_add=True)
    try:
        return Configuration.model_validate(OmegaConf.to_container(values))
    except ValidationError as error:
        origins = _Origins({text.split("=", 1)[0]: text for text in overrides}, [(origin, ())])
        raise InputError("\n".join(_explain(error, origins))) from error


def _load_part(group: str, kind: type[_Part], config: str, workspace_conf: Path | None) -> tuple[_Part, Path]:
    folders = [folder for folder in (workspace_conf, PACKAGED_CONF) if folder is not None and folder.is_dir()]
    path: Path | None = Path(config)
    if path is not None and not path.is_file():
        path = _in_force(f"{group}/{config}.yaml", folders)
    if path is None:
        names = available(group, folders)
        raise InputError(
            f"There is no {kind.__name__} {config}: expected a YAML file, or one of {', '.join(names)}."
            + _nearest(config, names)
        )
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"{path} can't be read as YAML: {_first_line(error)}. Save it in UTF-8, as keys and values."
        ) from error
    try:
        return kind.model_validate(values), path
    except ValidationError as error:
        origins = _Origins({}, [(path, (group,))])
        raise InputError("\n".join(_explain(error, origins, (group,)))) from error


def named_by_file(error: ColumnsError, overrides: Sequence[str], workspace_conf: Path | None = None) -> InputError:
    """The same complaint about columns, each with the file or override that set its key."""
    folders = [folder for folder in (workspace_conf, PACKAGED_CONF) if folder is not None and folder.is_dir()]
    origins = _origins(list(overrides), _check_overrides(list(overrides), folders), folders)
    lines = (f"{origins.of(key.split('.'))}: {key}: {text}" for key, text in error.problems)
    return InputError("\n".join(lines))


def _compose(overrides: list[str], folders: Sequence[Path]) -> DictConfig:
    """Compose from the files of all folders, the first folder's before those of the next."""
    # Hydra looks into the folder of the root file first of all, so that one holds nothing else.
    with tempfile.TemporaryDirectory(prefix="endcap-") as root:
        shutil.copy(next(path for folder in folders if (path := folder / _ROOT).is_file()), root)
        search_path = f"hydra.searchpath=[{','.join(folder.resolve().as_uri() for folder in folders)}]"
        with initialize_config_dir(config_dir=root, version_base="1.3", job_name="endcap"):
            return compose(Path(_ROOT).stem, overrides=[*overrides, search_path])


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
            why = _first_line(error) if _said(text) == text else "it can't be read"
            raise InputError(
                f"{_said(text)!r} is no override: {why}. Write key=value, such as training.num_epochs=3."
            ) from None
        key = override.key_or_group
        if key.startswith("hydra") or override.is_delete() or override.is_sweep_override():
            raise InputError(
                f"The override {_said(text)!r} is not taken here: write key=value for a key of the configuration."
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
        if names is None:  # a mapping of the user's own names, such as features.buyer, or a list
            if _is_list(node) and not part.isdigit():
                where = ".".join(parts[:depth])
                raise InputError(
                    f"The override {_said(text)!r} has an unknown key: {where} is a list, found {part!r}, expected a place in "
                    f"it, such as {where}.0."
                )
            node = _value_type(node)
            continue
        if part not in names:
            where = ".".join(parts[:depth]) or "the configuration"
            raise InputError(
                f"The override {_said(text)!r} has an unknown key: {where} has no {part!r}; it has {', '.join(sorted(names))}."
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


def _is_list(node: Any) -> bool:
    return any(get_origin(candidate) is list for candidate in _alternatives(node))


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
    defaults = _defaults_of(f"experiment/{experiment}.yaml", folders)
    for group in ("features", "model"):
        chosen = choices.get(group, defaults.get(group))
        names = [chosen] if chosen else available(group, folders)
        named.extend((f"{group}/{name}.yaml", (group,)) for name in names)
    named.append((_ROOT, ()))
    files = [(path, prefix) for name, prefix in named if (path := _in_force(name, folders)) is not None]
    keys = {text.split("=", 1)[0].lstrip("+"): text for text in overrides}
    return _Origins({key: text for key, text in keys.items() if key not in _GROUPS}, files)


def _in_force(name: str, folders: Sequence[Path]) -> Path | None:
    """The file that Hydra takes for `name`: the first folder's that has one."""
    return next((path for folder in folders if (path := folder / name).is_file()), None)


def _defaults_of(name: str, folders: Sequence[Path]) -> dict[str, str]:
    """What a file's defaults list chooses, by group."""
    path = _in_force(name, folders)
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
    entries = content.get("defaults") if isinstance(content, dict) else None
    chosen = [entry for entry in entries or [] if isinstance(entry, dict)]
    return {str(group).removeprefix("/"): str(value) for entry in chosen for group, value in entry.items()}


def _said(text: str) -> str:
    """An override as messages may repeat it: a value that belongs to a secret's key may be the secret itself."""
    return _SECRET_VALUE.sub(r"\1…", text)


def _has(path: Path, prefix: tuple[str, ...], key: tuple[str, ...]) -> bool:
    if key == prefix:
        return True
    if key[: len(prefix)] != prefix:
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


def _explain(error: ValidationError, origins: _Origins, prefix: tuple[str, ...] = ()) -> Iterator[str]:
    for problem in error.errors():
        key = [*prefix, *(str(part) for part in problem["loc"])]
        where, dotted = origins.of(key), ".".join(key) or "the configuration"
        if problem["type"] == "missing":  # the file that sets what lacks it
            where = origins.of(key[:-1])
        elif problem["type"] == "value_error":  # of several keys together
            where = " with ".join([where, *origins.below(key)])
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
    by_fold = {str(known).casefold(): known for known in names}
    close = difflib.get_close_matches(name.casefold(), list(by_fold), n=1, cutoff=0.5)
    return f" Did you mean {prefix + '.' if prefix else ''}{by_fold[close[0]]}?" if close else ""


def _composing_problem(error: Exception, folders: Sequence[Path]) -> str:
    """What went wrong, with the file where that is known."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"{error.name}: {_first_line(error)}"
    if isinstance(error, UnicodeDecodeError):
        files = [path for folder in folders for path in sorted(folder.rglob("*.yaml")) if not _is_text(path)]
        return f"{', '.join(map(str, files))} is not in UTF-8. Save it in that encoding."
    return _first_line(error)


def _is_text(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
