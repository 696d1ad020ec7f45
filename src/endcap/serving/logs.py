"""What a server is told of its logs in, the logs that it keeps out, and ids for the requests in them."""

from __future__ import annotations

import secrets
from itertools import count
from typing import Final

from endcap.contracts.errors import InputError
from endcap.serving.access_log import AccessLog
from endcap.serving.metrics import Labels, Metrics
from endcap.serving.request_log import RequestLog
from endcap.serving.settings import ServerSettings
from endcap.serving.users import UserKeys

# What is left to write when the server stops has so long: the process is to be gone within ten seconds of SIGTERM.
_STOP_SECONDS: Final = 1.0


class Logs:
    """The logs of one process."""

    def __init__(self, access: AccessLog | None, requests: RequestLog | None, metrics: Metrics) -> None:
        """Take those that are kept."""
        self.access, self.requests = access, requests
        self._prefix = secrets.token_hex(6).encode()
        self._numbers = count(1)
        metrics.gauges["endcap_log_lines_dropped_total"] = self._dropped

    def next_id(self) -> bytes:
        """An id for a request that came without one."""
        return b"%b-%x" % (self._prefix, next(self._numbers))

    def start(self) -> None:
        """Start writing."""
        if self.access is not None:
            self.access.spool.start()
        if self.requests is not None:
            self.requests.start()

    def stop(self) -> None:
        """Write down what is left."""
        if self.access is not None:
            self.access.spool.stop(_STOP_SECONDS)
        if self.requests is not None:
            self.requests.spool.stop(_STOP_SECONDS)

    def _dropped(self) -> dict[Labels, float]:
        dropped: dict[Labels, float] = {}
        if self.access is not None:
            dropped["access",] = float(self.access.spool.num_dropped)
        if self.requests is not None:
            dropped["requests",] = float(self.requests.num_dropped)
        return dropped


def open_logs(settings: ServerSettings, metrics: Metrics) -> Logs | None:
    """The logs that are wished. Raises InputError for a log of requests without a key, or a place that can't be written."""
    if settings.access_log is None and settings.request_log_dir is None:
        return None
    keys = None if settings.user_key is None else UserKeys(settings.user_key)
    access = requests = None
    if settings.access_log is not None:
        access = AccessLog(settings.access_log, keys, settings.access_log_sample)
    if settings.request_log_dir is not None:
        if keys is None:
            raise InputError(
                "The log of requests holds hashed ids alone, and there is no key to hash them by. Give the workspace "
                "(--workspace), or put the key of its endcap.yaml into ENDCAP_USER_KEY."
            )
        requests = RequestLog(
            settings.request_log_dir, keys, settings.request_log_sample, settings.request_log_flush_seconds
        )
    return Logs(access, requests, metrics)
