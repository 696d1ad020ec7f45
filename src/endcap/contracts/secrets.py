"""A setting that must stay secret in, a checked reference to it out: configuration names secrets and never holds them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

SCHEME = "secret://"
SECRET_KEYS = ("api_key", "password", "token")
"""Last parts of the configuration's keys that take references alone; what stands there is never repeated in a message."""

_REFERENCE = re.compile(r"secret://[A-Za-z0-9_-]{1,255}")


def is_reference(value: str) -> bool:
    """Whether a text names a secret, as `secret://wandb-api-key` does."""
    return _REFERENCE.fullmatch(value) is not None


def _checked(value: Any) -> Any:
    if isinstance(value, str) and is_reference(value):
        return value
    raise ValueError(
        "found something else than a reference (not shown here), expected secret://NAME with letters, digits, - and _, "
        "such as secret://wandb-api-key. Keep the value itself in the environment, in a file, or in Secret Manager; where "
        "it stands now, remove it"
    )


SecretReference = Annotated[str, BeforeValidator(_checked)]
"""The name of a secret, such as `secret://wandb-api-key`; the value itself is refused."""
