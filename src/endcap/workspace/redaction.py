"""Texts that may hold a secret in, the same with the secret's name in its place out: for logs, manifests and errors."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus

MIN_LENGTH = 8
"""Shorter values would tear ordinary words: they can't be redacted, so they are no secrets."""
KEPT_IN_ENVIRONMENT = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "ENDCAP_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "WANDB_API_KEY",
)
"""Variables whose values other libraries read by themselves."""

_USER_INFO = re.compile(r"(?<=://)[^/\s@?#]+:[^/\s@?#]*(?=@)")
_names: dict[str, str] = {}
_pattern: re.Pattern[str] | None = None
_lock = threading.Lock()
_is_guarded = False


def remember(value: str, name: str) -> None:
    """Have `value` replaced by `<name>` from here on, as it stands, and as URLs, JSON and HTTP headers write it."""
    global _pattern
    if len(value) < MIN_LENGTH:
        return
    encoded = base64.b64encode(value.encode()).decode()
    forms = {value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1], repr(value)[1:-1], encoded}
    forms.add(json.dumps(value, ensure_ascii=False)[1:-1])
    with _lock:
        if all(form in _names for form in forms):
            return
        _names.update(dict.fromkeys(forms, name))
        longest_first = sorted(_names, key=len, reverse=True)
        _pattern = re.compile("|".join(map(re.escape, longest_first)))


def redact(text: str) -> str:
    """The text without remembered secrets, and without users and passwords in URLs."""
    return _USER_INFO.sub("<credentials>", redact_known(text))


def redact_known(text: str) -> str:
    """The text without remembered secrets; all else as it is."""
    return text if _pattern is None else _pattern.sub(lambda found: f"<{_names[found.group()]}>", text)


def redact_values(value: Any) -> Any:
    """The same for every text in nested mappings and lists."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_values(key): redact_values(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(one) for one in value]
    return value


def guard_process() -> None:
    """From here on, uncaught errors, warnings and log records of any library are redacted before they are printed."""
    global _is_guarded
    for name in KEPT_IN_ENVIRONMENT:
        remember(os.environ.get(name, ""), name)
    if _is_guarded:
        return
    _is_guarded = True
    sys.excepthook = _print_uncaught
    threading.excepthook = lambda found: _print_uncaught(found.exc_type, found.exc_value, found.exc_traceback)
    _guard_logging()
    _guard_warnings()


def _print_uncaught(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, where))))


def _guard_logging() -> None:
    make = logging.getLogRecordFactory()

    def redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if _pattern is not None:
            try:
                record.msg, record.args = redact(record.getMessage()), None
            except (TypeError, ValueError):  # a message that doesn't fit its arguments: logging says so by itself
                return record
            if record.exc_info and record.exc_info[0] is not None:
                record.exc_text = redact("".join(traceback.format_exception(*record.exc_info))).rstrip()
        return record

    logging.setLogRecordFactory(redacted)


def _guard_warnings() -> None:
    show = warnings.formatwarning

    def redacted(*args: Any, **kwargs: Any) -> str:
        return redact(show(*args, **kwargs))

    warnings.formatwarning = redacted
