"""A job in, a CustomJob of Vertex AI out: started once, looked at, read along with, cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from endcap.contracts.errors import EndcapError, InputError, TransientError
from endcap.contracts.submission import SubmissionConfig
from endcap.training.launchers.protocol import Job, Status
from endcap.training.launchers.refusals import bucket_problem
from endcap.training.launchers.vertex_log import CloudLog
from endcap.training.launchers.vertex_request import (
    ATTEMPT_LABEL,
    checked_plain,
    client_module,
    custom_job,
    custom_job_like,
    labels_of,
    status_of,
)

CALL_TIMEOUT_S: Final = 30.0

_WAITS_S: Final = (1.0, 2.0, 4.0, 8.0)


class VertexLauncher:
    """Runs jobs in one project and region. A handle is the job's resource name."""

    def __init__(self, config: SubmissionConfig, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Raises InputError when the client isn't installed or has no credentials."""
        self._config, self._sleep = config, sleep
        self._parent = f"projects/{config.project}/locations/{config.region}"
        with _told(f"the training service of {config.region}"):
            self._client = _client(config)
        self._logs: dict[str, CloudLog] = {}
        self._earlier: Any = None

    def start(self, job: Job, attempt: int) -> str:
        """Create the CustomJob; one whose creation was never answered is looked for before it is tried again."""
        request = (
            custom_job(self._config, job, attempt)
            if self._earlier is None
            else custom_job_like(self._earlier, job, attempt)
        )
        if (found := self._find(job, attempt)) is not None:
            return found
        for wait_s in (*_WAITS_S, None):
            try:
                with _told("the job's creation"):
                    made = self._client.create_custom_job(
                        parent=self._parent, custom_job=request, timeout=CALL_TIMEOUT_S
                    )
                    return str(made.name)
            except TransientError:
                if wait_s is None:
                    raise
                self._sleep(wait_s)
                if (found := self._find(job, attempt)) is not None:
                    return found
        raise AssertionError("the last try returns or raises")

    def status(self, handle: str) -> Status:
        """As the service tells it."""
        with _told(handle):
            job = self._client.get_custom_job(name=handle, timeout=CALL_TIMEOUT_S)
        return status_of(job)

    def lines(self, handle: str) -> Iterator[Mapping[str, Any]]:
        """What the job's containers wrote, from Cloud Logging."""
        if handle not in self._logs:
            self._logs[handle] = CloudLog(str(self._config.project), handle, self._config.log_endpoint)
        with _told("the log service"):
            yield from self._logs[handle].entries()

    def cancel(self, handle: str) -> None:
        """Ask for its end; the container gets SIGTERM."""
        with _told(handle):
            self._client.cancel_custom_job(name=handle, timeout=CALL_TIMEOUT_S)

    def job_of(self, handle: str) -> Job:
        """What was asked for under a name. Raises InputError when there is no such job, or another program made it."""
        with _told(handle):
            found = self._client.get_custom_job(name=handle, timeout=CALL_TIMEOUT_S)
        container = found.job_spec.worker_pool_specs[0].container_spec
        environment = {each.name: each.value for each in container.env}
        if "RUN_ID" not in environment:
            raise InputError(f"{handle} was not submitted by Endcap: its container has no RUN_ID. Give another job.")
        arguments, command = tuple(container.args), tuple(container.command)
        return Job(environment["RUN_ID"], arguments, command, environment, dict(found.labels))

    def take_up(self, handle: str) -> int:
        """Have further attempts be like this job; gives which attempt it is.

        Raises InputError when there is no such job.
        """
        with _told(handle):
            self._earlier = self._client.get_custom_job(name=handle, timeout=CALL_TIMEOUT_S)
        attempt = str(self._earlier.labels.get(ATTEMPT_LABEL, ""))
        return int(attempt) if attempt.isdigit() else 1

    def console_url(self, handle: str) -> str:
        """Where a person can look at it."""
        number = handle.rpartition("/")[2]
        where = f"locations/{self._config.region}/training/{number}"
        return f"https://console.cloud.google.com/vertex-ai/{where}?project={self._config.project}"

    def bucket_problem(self, bucket: str) -> str | None:
        """What is wrong with where a bucket lies; None when it lies in the job's region."""
        storage = client_module("google.cloud.storage")
        with _told(f"gs://{bucket}"):
            found = storage.Client(project=self._config.project).get_bucket(bucket, timeout=CALL_TIMEOUT_S)
        return bucket_problem(bucket, found.location, found.data_locations or (), str(self._config.region))

    def _find(self, job: Job, attempt: int) -> str | None:
        """The same attempt, where it is under way already."""
        wanted = " AND ".join(f'labels.{name}="{value}"' for name, value in labels_of(job, attempt).items())
        with _told("the list of jobs"):
            request = {"parent": self._parent, "filter": wanted}
            for found in self._client.list_custom_jobs(request=request, timeout=CALL_TIMEOUT_S):
                if not status_of(found).phase.is_over:
                    return str(found.name)
        return None


def _client(config: SubmissionConfig) -> Any:
    service = client_module("google.cloud.aiplatform_v1.services.job_service")
    endpoint = config.api_endpoint or f"{config.region}-aiplatform.googleapis.com"
    if not endpoint.startswith("http://"):
        return service.JobServiceClient(client_options={"api_endpoint": endpoint.removeprefix("https://")})
    transports = client_module("google.cloud.aiplatform_v1.services.job_service.transports")
    channel = client_module("grpc").insecure_channel(urlsplit(checked_plain(endpoint)).netloc)
    return service.JobServiceClient(transport=transports.JobServiceGrpcTransport(channel=channel))


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What the clients raise, as ours: whose turn it is decides."""
    errors, auth = client_module("google.api_core.exceptions"), client_module("google.auth.exceptions")
    requests = client_module("requests.exceptions")
    try:
        yield
    except EndcapError:
        raise
    except auth.DefaultCredentialsError as error:
        raise InputError(
            "No credentials were found for Google Cloud. Log in with `gcloud auth application-default login`, or set "
            "GOOGLE_APPLICATION_CREDENTIALS."
        ) from error
    except auth.RefreshError as error:
        raise InputError(f"The credentials for {what} are no longer taken: {error}. Log in again.") from error
    except (errors.PermissionDenied, errors.Forbidden, errors.Unauthenticated, errors.Unauthorized) as error:
        raise InputError(
            f"Access to {what} is denied: {error.message}. The account needs roles/aiplatform.user, storage.buckets.get on "
            "the bucket and logging.viewer."
        ) from error
    except errors.ResourceExhausted as error:
        raise InputError(
            f"A quota is used up at {what}: {error.message}. Wait for other jobs, take another region or machine, or ask for "
            "more quota of custom model training."
        ) from error
    except errors.NotFound as error:
        raise InputError(f"There is no {what}: {error.message}. Check project, region and name.") from error
    except (errors.InvalidArgument, errors.FailedPrecondition, errors.BadRequest) as error:
        raise InputError(f"Vertex AI refuses {what}: {error.message}.") from error
    except (errors.GoogleAPICallError, errors.RetryError, auth.TransportError, requests.RequestException) as error:
        raise TransientError(f"No answer about {what}: {type(error).__name__}: {error}. Try again.") from error
