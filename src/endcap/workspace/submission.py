"""A file such as `conf/submit.yaml`, options and an environment in, one checked SubmissionConfig out."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from endcap.contracts.errors import InputError
from endcap.contracts.submission import MachineConfig, SubmissionConfig

FILE: Final = "submit.yaml"
"""Below a workspace's `conf/`."""

_BY_ENVIRONMENT: Final = {"project": "PROJECT_ID", "region": "REGION", "bucket": "ARTIFACT_BUCKET"}
_PARTS: Final[dict[str, type[BaseModel]]] = {"": SubmissionConfig, "machine": MachineConfig}


def load_submission(
    file: Path | None, options: Mapping[str, Any], environment: Mapping[str, str], workspace_conf: Path | None = None
) -> SubmissionConfig:
    """What options say counts before the file, the file before the environment.

    Without `file`, the workspace's own is read where there is one. Raises InputError for anything wrong, every problem
    in one message.
    """
    if file is None and workspace_conf is not None and (workspace_conf / FILE).is_file():
        file = workspace_conf / FILE
    values = {key: environment[name] for key, name in _BY_ENVIRONMENT.items() if environment.get(name)}
    said = _read(file) if file is not None else {}
    values |= said
    values |= {key: value for key, value in options.items() if value is not None}
    try:
        return SubmissionConfig.model_validate(values)
    except ValidationError as error:
        raise InputError("\n".join(_explained(error, file, said, options))) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        first = str(error).partition("\n")[0]
        raise InputError(f"{file} can't be read as YAML: {first}. Save it in UTF-8, as keys and values.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(
            f"{file} holds a {type(values).__name__}; expected keys and values, such as region: us-central1."
        )
    return {str(key): value for key, value in values.items()}


def _explained(
    error: ValidationError, file: Path | None, said: Mapping[str, Any], options: Mapping[str, Any]
) -> Iterator[str]:
    for problem in error.errors():
        key = [str(part) for part in problem["loc"]]
        top, dotted = key[0] if key else "", ".".join(key) or "the submission"
        if options.get(top) is not None:
            where = "an option"
        elif top in said or not key:
            where = str(file or "the submission")
        else:
            where = f"the environment variable {_BY_ENVIRONMENT.get(top, top)}"
        if problem["type"] == "extra_forbidden":
            names = sorted(_PARTS.get(".".join(key[:-1]), SubmissionConfig).model_fields)
            close = difflib.get_close_matches(key[-1], names, n=1, cutoff=0.5)
            near = f" Did you mean {'.'.join([*key[:-1], close[0]])}?" if close else ""
            yield f"{where}: {dotted}: unknown key; expected one of {', '.join(names)}.{near}"
        elif problem["type"] == "value_error":
            yield f"{where}: {dotted}: {problem['ctx']['error']}"
        else:
            expected = problem["msg"].removeprefix("Input should be ").removeprefix("String should match pattern ")
            found = "" if top == "env" else f"found {problem['input']!r:.80}, "  # an environment may hold anything
            yield f"{where}: {dotted}: {found}expected {expected}."
