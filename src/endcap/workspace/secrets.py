"""A reference such as `secret://wandb-api-key` in, its value out: from the environment, a file, or Secret Manager."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from endcap.contracts.errors import ArtifactError, InputError, TransientError
from endcap.contracts.secrets import SCHEME, is_reference
from endcap.workspace.redaction import MIN_LENGTH, remember

FOLDER_VARIABLE = "ENDCAP_SECRETS_DIR"
DEFAULT_FOLDER = "/run/secrets"
PROJECT_VARIABLES = ("PROJECT_ID", "GOOGLE_CLOUD_PROJECT")

_TIMEOUT_S = 20.0
_MAX_BYTES = 65_536


class SecretStore(Protocol):
    """What of Secret Manager's client is used."""

    def access_secret_version(self, *, name: str, timeout: float) -> Any:
        """The payload of `projects/P/secrets/NAME/versions/V`, with its checksum."""
        ...


def resolve(
    reference: str,
    environment: Mapping[str, str] | None = None,
    store: Callable[[], SecretStore] | None = None,
) -> str:
    """The value of a reference; from here on it is redacted in logs, manifests and errors.

    Looked for, in this order: the environment variable of that name in capitals, with _ for -; the file of that name in
    `$ENDCAP_SECRETS_DIR` (/run/secrets by default); the newest version in Secret Manager of `$PROJECT_ID`. A variable
    may hold another reference, which is followed.

    Raises InputError when it is in none of them, is empty or is too short to be redacted; TransientError when Secret
    Manager can't be reached.
    """
    given = os.environ if environment is None else environment
    seen = [reference]
    while True:
        name = _name_of(seen[-1])
        value, tried = _found(name, given, store or _secret_manager)
        if value is None:
            raise InputError(
                f"{seen[-1]} was found nowhere: {'; '.join(tried)}. Set the variable, mount the file, or add the secret "
                "to Secret Manager."
            )
        if not value.startswith(SCHEME):
            break
        if value in seen:
            raise InputError(
                f"{reference} leads back to itself: the variable {_variable(name)} holds {value}. Let it name another."
            )
        seen.append(value)
    if len(value) < MIN_LENGTH:
        raise InputError(
            f"{seen[-1]} has {len(value)} characters, expected {MIN_LENGTH} or more: a shorter one can't be kept out of logs."
        )
    remember(value, reference)
    return value


def _name_of(reference: str) -> str:
    if not is_reference(reference):
        raise InputError("A secret is named by secret://NAME, such as secret://wandb-api-key; found something else.")
    return reference.removeprefix(SCHEME)


def _variable(name: str) -> str:
    return name.replace("-", "_").upper()


def _found(name: str, environment: Mapping[str, str], store: Callable[[], SecretStore]) -> tuple[str | None, list[str]]:
    """The value, or None and what was found in each of the three places."""
    variable = _variable(name)
    # A variable that names the very secret that is looked for says only: look further.
    if variable in environment and environment[variable] != f"{SCHEME}{name}":
        return _stripped(environment[variable], f"the variable {variable}"), []
    tried = [f"the variable {variable} is not set"]
    file = Path(environment.get(FOLDER_VARIABLE, DEFAULT_FOLDER)) / name
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        tried.append(f"there is no file {file}")
    except OSError as error:
        raise InputError(f"The secret's file {file} can't be read: {error.strerror}. Let this user read it.") from error
    else:
        return _decoded(content, str(file)), []
    project = next((environment[key] for key in PROJECT_VARIABLES if environment.get(key)), None)
    if project is None:
        return None, [*tried, "Secret Manager was not asked, as PROJECT_ID is not set"]
    return _from_manager(project, name, tried, store)


def _from_manager(
    project: str, name: str, tried: list[str], store: Callable[[], SecretStore]
) -> tuple[str | None, list[str]]:
    try:
        client = store()
        errors = importlib.import_module("google.api_core.exceptions")
        auth = importlib.import_module("google.auth.exceptions")
        checksum = importlib.import_module("google_crc32c").value
    except ImportError:
        return None, [*tried, 'Secret Manager needs its client: pip install "endcap[gcp]"']
    path = f"projects/{project}/secrets/{name}/versions/latest"
    try:
        payload = client.access_secret_version(name=path, timeout=_TIMEOUT_S).payload
    except (errors.NotFound, errors.FailedPrecondition):  # a disabled version is a failed precondition
        return None, [*tried, f"Secret Manager has no enabled version of {name} in {project}"]
    except (errors.PermissionDenied, errors.Unauthenticated, auth.GoogleAuthError) as error:
        raise InputError(
            f"Secret Manager refuses {path}: {type(error).__name__}. Give the job's account the role "
            "roles/secretmanager.secretAccessor on that secret."
        ) from error
    except (errors.GoogleAPICallError, errors.RetryError) as error:
        raise TransientError(
            f"Secret Manager did not answer for {path}: {type(error).__name__}. Try again later."
        ) from error
    if payload.data_crc32c and payload.data_crc32c != checksum(payload.data):
        raise TransientError(f"{path} arrived damaged: its checksum differs. Try again.")
    return _decoded(payload.data, path), []


def _secret_manager() -> SecretStore:
    client: SecretStore = importlib.import_module("google.cloud.secretmanager").SecretManagerServiceClient()
    return client


def _decoded(content: bytes, where: str) -> str:
    if len(content) > _MAX_BYTES:
        raise InputError(f"{where} holds {len(content):,} bytes, expected a secret of at most {_MAX_BYTES:,}.")
    try:
        return _stripped(content.decode(), where)
    except UnicodeDecodeError:
        raise ArtifactError(f"{where} holds no UTF-8 text. Store the secret as text.") from None


def _stripped(value: str, where: str) -> str:
    found = value.strip()
    if not found:
        raise InputError(f"The secret is set but empty in {where}. Put its value there, or remove it.")
    return found
