"""A job's name in, what its containers wrote since the last look out, from Cloud Logging."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from endcap.contracts.errors import InputError, TransientError
from endcap.training.launchers.vertex_request import checked_plain, client_module

ENDPOINT: Final = "https://logging.googleapis.com"

_READ_ALONE = ("https://www.googleapis.com/auth/logging.read",)
_TIMEOUT_S = 20.0
_LATE = timedelta(seconds=60)  # entries of several machines arrive out of order
_PAGE_SIZE = 1000
_MAX_PAGES = 20  # more than that in one look: the next look goes on
_OK, _TOO_MANY, _FAULT = 200, 429, 500


class CloudLog:
    """The log of one job, read forwards. Entries that arrive late with the same moment are told once."""

    def __init__(self, project: str, job: str, endpoint: str | None = None) -> None:
        """`job` is a resource name; nothing is asked yet."""
        self._project, self._job_id = project, job.rpartition("/")[2]
        self._endpoint = endpoint or ENDPOINT
        self._newest = datetime.now(UTC) - timedelta(days=1)  # of a job that began before, the last day
        self._told: dict[str, datetime] = {}
        self._session: Any = None

    def entries(self) -> Iterator[Mapping[str, Any]]:
        """One mapping an entry: JSON as it was written, text as `message`.

        Raises TransientError when the service can't be reached, InputError when it refuses.
        """
        since, token = self._newest - _LATE, None
        self._told = {given: moment for given, moment in self._told.items() if moment >= since}
        for _ in range(_MAX_PAGES):
            answer = self._ask(since, token)
            for entry in answer.get("entries", ()):
                moment, given = datetime.fromisoformat(entry["timestamp"]), str(entry["insertId"])
                if given not in self._told:
                    self._told[given] = moment
                    self._newest = max(self._newest, moment)
                    yield _line(entry)
            token = answer.get("nextPageToken")
            if not token:
                return

    def _ask(self, since: datetime, token: str | None) -> dict[str, Any]:
        wanted = (
            'resource.type="ml_job"',
            f'resource.labels.job_id="{self._job_id}"',
            f'timestamp>="{since.isoformat()}"',
        )
        body: dict[str, Any] = {
            "resourceNames": [f"projects/{self._project}"],
            "filter": " AND ".join(wanted),
            "orderBy": "timestamp asc",
            "pageSize": _PAGE_SIZE,
        }
        if token:
            body["pageToken"] = token
        if self._session is None:
            self._session = _session(self._endpoint)
        answer = self._session.post(f"{self._endpoint}/v2/entries:list", json=body, timeout=_TIMEOUT_S)
        if answer.status_code == _OK:
            found: dict[str, Any] = answer.json()
            return found
        said = f"the log service answered {answer.status_code}"
        if answer.status_code == _TOO_MANY or answer.status_code >= _FAULT:
            raise TransientError(f"{said}. Try again.")
        raise InputError(f"{said}: {answer.text[:200]}. The account needs roles/logging.viewer.")


def _line(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    payload = entry.get("jsonPayload")
    return payload if isinstance(payload, dict) else {"message": str(entry.get("textPayload", "")).rstrip()}


def _session(endpoint: str) -> Any:
    requests = client_module("google.auth.transport.requests")
    if urlsplit(endpoint).scheme == "http":
        checked_plain(endpoint)
        credentials = client_module("google.auth.credentials").AnonymousCredentials()
    else:
        credentials, _ = client_module("google.auth").default(scopes=_READ_ALONE)
    return requests.AuthorizedSession(credentials)
