"""Environment variables in, a training job's checked environment out, or every problem with them at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from endcap.contracts.errors import InputError
from endcap.contracts.job import (
    LOCAL_PROJECT,
    OPTIONAL,
    PLATFORM,
    REQUIRED,
    STANDING_IN,
    Cluster,
    JobEnvironment,
)
from endcap.contracts.secrets import is_reference
from endcap.workspace.layout import Workspace, key_of
from endcap.workspace.locations import Location
from endcap.workspace.secrets import resolve

_MAX_SHOWN: Final = 80
_CREDENTIALS = re.compile(r"//[^/@\s]*@")
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_LONG_WORD = re.compile(r"[A-Za-z0-9_\-+=]{32,}")
_TRAINING_POOLS: Final = ("workerpool0", "workerpool1")
_DEFAULT_PORT: Final = 29500
_MAX_PORT: Final = 65535
_TRUTHS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class _Form:
    """What a variable may hold."""

    fits: Callable[[str], bool]
    expected: str
    example: str
    is_shown: bool = True
    """Whether what was found may be repeated."""


def _matching(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda value: compiled.fullmatch(value) is not None


def _is_location(value: str) -> bool:
    # `gs:/bucket` would be a folder of that name.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:(?!//)", value):
        return False
    try:
        Location.parse(value)
    except InputError:
        return False
    return not value[:1].isspace() and not value[-1:].isspace()


def _is_bucket(value: str) -> bool:
    if "/" in value:
        return _is_location(value)
    return re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", value) is not None


def _is_table(value: str) -> bool:
    return _is_location(value) if "/" in value else re.fullmatch(r"\w{1,1024}\.[\w-]{1,1024}", value) is not None


_PLACE: Final = "a folder: gs://BUCKET/…, s3://BUCKET/… or a local path"
_TABLE: Final = "DATASET.TABLE, or a folder of Parquet or Delta files"
_DATASET: Final = _matching(r"[A-Za-z0-9_]{1,1024}")
_NAME: Final = _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_FORMS: Final[Mapping[str, _Form]] = {
    "PROJECT_ID": _Form(
        _matching(rf"([a-z][a-z0-9.-]*:)?[a-z][a-z0-9-]{{4,28}}[a-z0-9]|{LOCAL_PROJECT}"),
        "a project's id: 6 to 30 lowercase letters, digits and hyphens",
        "acme-shop",
    ),
    "REGION": _Form(
        _matching(r"[a-z]{2,}(-[a-z]+)+-?[0-9]{1,2}|local"), "a region of the cloud, not a zone", "europe-west4"
    ),
    "ARTIFACT_BUCKET": _Form(_is_bucket, "a bucket's name, gs://BUCKET, s3://BUCKET or a local path", "acme-artifacts"),
    "STAGING_PREFIX": _Form(_is_location, _PLACE, "gs://acme-artifacts/staging"),
    "EXPERIMENT_NAME": _Form(_NAME, "letters, digits, '_', '-' and '.', 128 at most", "two-tower"),
    "DATASET_RECSYS": _Form(_DATASET, "a dataset's id: letters, digits and '_'", "recsys"),
    "DATASET_DRIFT": _Form(_DATASET, "a dataset's id: letters, digits and '_'", "drift"),
    "REQUESTS_TABLE": _Form(_is_table, _TABLE, "recsys.requests"),
    "FEEDBACK_TABLE": _Form(_is_table, _TABLE, "recsys.feedback"),
    "DRIFT_TABLE": _Form(_is_table, _TABLE, "drift.hourly"),
    "MODEL_DIR": _Form(_is_location, _PLACE, "gs://acme-artifacts/models"),
    "CHECKPOINT_DIR": _Form(_is_location, _PLACE, "gs://acme-artifacts/checkpoints"),
    "WANDB_ENABLED": _Form(lambda value: value.lower() in _TRUTHS, "true or false", "false"),
    "VERTEX_EXPERIMENT": _Form(
        _matching(r"[a-z0-9][a-z0-9-]{0,127}"), "lowercase letters, digits and hyphens, 128 at most", "two-tower"
    ),
    "USER_KEY_SECRET": _Form(
        is_reference, "the name of a secret, never its value", "secret://workspace-key", is_shown=False
    ),
    "RUN_ID": _Form(_NAME, "letters, digits, '_', '-' and '.', 128 at most", "train-20260131T020000Z"),
    "REQUEST_ID": _Form(_NAME, "letters, digits, '_', '-' and '.', 128 at most", "nightly-42"),
    "AIP_MODEL_DIR": _Form(_is_location, _PLACE, "gs://acme-artifacts/job/model"),
    "AIP_CHECKPOINT_DIR": _Form(_is_location, _PLACE, "gs://acme-artifacts/job/checkpoints"),
    "AIP_TENSORBOARD_LOG_DIR": _Form(_is_location, _PLACE, "gs://acme-artifacts/job/logs"),
    "CLUSTER_SPEC": _Form(
        lambda value: _cluster_of(value) is not None,
        "JSON with the cluster's workerpool0 (and workerpool1) and a task in one of them",
        '{"cluster": {"workerpool0": ["host-0:2222"]}, "task": {"type": "workerpool0", "index": 0}}',
    ),
}
_PLACES: Final = ("STAGING_PREFIX", "MODEL_DIR", "CHECKPOINT_DIR", "REQUESTS_TABLE", "FEEDBACK_TABLE", "DRIFT_TABLE")


def read_job_environment(environ: Mapping[str, str], workspace: Path) -> JobEnvironment | None:
    """The job's environment; None where not one of its variables is set: then nothing is a job.

    In a cloud (a place is remote, or Vertex AI's own variables are there) all but the optional variables are required;
    elsewhere each has a default, places one below `workspace`. Raises InputError with every problem at once.
    """
    given = {name: environ[name] for name in (*REQUIRED, *OPTIONAL, *PLATFORM) if name in environ}
    if not given:
        return None
    remote = _remote(given)
    why_strict = [*remote, *(name for name in PLATFORM if given.get(name))]
    problems = list(_problems(given, why_strict))
    if problems:
        head = f"The job's environment has {len(problems)} problem{'s' if len(problems) > 1 else ''}:"
        tail = [f"All are required, since {_told(why_strict, remote)}."] if why_strict else []
        raise InputError("\n  ".join([head, *problems, *tail]))
    values = {**_defaults(given, workspace), **_standing_in(given), **given}
    return JobEnvironment(
        project_id=values["PROJECT_ID"],
        region=values["REGION"],
        artifact_bucket=_bucket(values["ARTIFACT_BUCKET"]),
        staging_prefix=values["STAGING_PREFIX"],
        experiment_name=values["EXPERIMENT_NAME"],
        dataset_recsys=values["DATASET_RECSYS"],
        dataset_drift=values["DATASET_DRIFT"],
        requests_table=values["REQUESTS_TABLE"],
        feedback_table=values["FEEDBACK_TABLE"],
        drift_table=values["DRIFT_TABLE"],
        model_dir=values["MODEL_DIR"],
        checkpoint_dir=values["CHECKPOINT_DIR"],
        user_key_secret=values.get("USER_KEY_SECRET"),
        vertex_experiment=values.get("VERTEX_EXPERIMENT"),
        wandb_enabled=_TRUTHS[values["WANDB_ENABLED"].lower()] if "WANDB_ENABLED" in values else None,
        tensorboard_dir=values.get("AIP_TENSORBOARD_LOG_DIR"),
        run_id=values.get("RUN_ID"),
        request_id=values.get("REQUEST_ID", ""),
        cluster=_cluster_of(values["CLUSTER_SPEC"]) if "CLUSTER_SPEC" in values else None,
        warehouse=str(workspace / "warehouse"),
        is_strict=bool(why_strict),
        given=frozenset(given),
    )


def job_workspace(job: JobEnvironment, path: Path) -> Workspace:
    """The job's workspace, made where there is none; with the key of `USER_KEY_SECRET`, where that is set.

    Raises InputError when the secret isn't found or is no key, or when the workspace there has another one.
    """
    if job.user_key_secret is None:
        return Workspace.init(path)
    key = key_of(resolve(job.user_key_secret))
    if key is None:
        raise InputError(
            f"USER_KEY_SECRET: {job.user_key_secret} holds something else than a workspace's key (not shown here); expected "
            "64 hexadecimal digits, as workspace_key in the endcap.yaml of the workspace that wrote the requests."
        )
    return Workspace.init(path, key)


def shown(value: str) -> str:
    """A value as messages may say it: without what looks like a password or a key, and not long."""
    masked = _QUERY.sub("?***", _CREDENTIALS.sub("//***@", value)) if "//" in value else value
    masked = _LONG_WORD.sub("***", masked)
    return repr(masked if len(masked) <= _MAX_SHOWN else masked[: _MAX_SHOWN - 1] + "…")


def _problems(given: Mapping[str, str], why_strict: list[str]) -> Iterator[str]:
    for name, form in _FORMS.items():
        such_as = f"expected {form.expected}, such as {name}={form.example}"
        if name not in given:
            stands_in = given.get(STANDING_IN.get(name, ""))
            if why_strict and name in REQUIRED and stands_in is None:
                yield f"{name} is missing; {such_as}"
        elif not given[name].strip():
            yield f"{name} is set but empty; {such_as}"
        elif not form.fits(given[name]):
            found = shown(given[name]) if form.is_shown else "something else (not shown here)"
            yield f"{name} is {found}; {such_as}"


def _remote(given: Mapping[str, str]) -> list[str]:
    """Variables that name a place in an object store."""
    places = [name for name in (*_PLACES, *STANDING_IN.values()) if re.match(r"(gs|s3)://", given.get(name, ""))]
    bucket = given.get("ARTIFACT_BUCKET", "")
    is_remote = bool(bucket.strip()) and ("/" not in bucket or re.match(r"(gs|s3)://", bucket) is not None)
    return [*(["ARTIFACT_BUCKET"] if is_remote else []), *places]


def _told(why_strict: list[str], remote: list[str]) -> str:
    first = why_strict[0]
    return f"{first} {'is remote' if first in remote else 'is set'}"


def _defaults(given: Mapping[str, str], workspace: Path) -> dict[str, str]:
    artifacts = Path(given.get("ARTIFACT_BUCKET", str(workspace / "artifacts")))
    recsys, drift = given.get("DATASET_RECSYS", "recsys"), given.get("DATASET_DRIFT", "drift")
    return {
        "PROJECT_ID": LOCAL_PROJECT,
        "REGION": "local",
        "ARTIFACT_BUCKET": str(artifacts),
        "STAGING_PREFIX": str(artifacts / "staging"),
        "EXPERIMENT_NAME": "endcap",
        "DATASET_RECSYS": recsys,
        "DATASET_DRIFT": drift,
        "REQUESTS_TABLE": f"{recsys}.requests",
        "FEEDBACK_TABLE": f"{recsys}.feedback",
        "DRIFT_TABLE": f"{drift}.hourly",
        "MODEL_DIR": str(artifacts / "models"),
        "CHECKPOINT_DIR": str(artifacts / "checkpoints"),
    }


def _standing_in(given: Mapping[str, str]) -> dict[str, str]:
    return {name: given[other] for name, other in STANDING_IN.items() if other in given}


def _bucket(value: str) -> str:
    return value if "/" in value else f"gs://{value}"


def _cluster_of(text: str) -> Cluster | None:
    """The machine's part by Vertex AI's description; None where it is none, or of a machine that doesn't train."""
    try:
        spec = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    pools, task = (spec.get("cluster"), spec.get("task")) if isinstance(spec, dict) else (None, None)
    if not isinstance(pools, dict) or not isinstance(task, dict):
        return None
    kind, index = task.get("type"), task.get("index")
    hosts = [_hosts(pools, name) for name in _TRAINING_POOLS]
    if kind not in _TRAINING_POOLS or type(index) is not int or not hosts[0]:
        return None
    place = _TRAINING_POOLS.index(kind)
    if not 0 <= index < len(hosts[place]):
        return None
    addr, _, port = hosts[0][0].rpartition(":") if ":" in hosts[0][0] else (hosts[0][0], "", str(_DEFAULT_PORT))
    if not addr or not port.isdigit() or not 0 < int(port) <= _MAX_PORT:
        return None
    return Cluster(sum(map(len, hosts[:place])) + index, sum(map(len, hosts)), addr, int(port))


def _hosts(pools: Mapping[str, Any], name: str) -> list[str]:
    found = pools.get(name, [])
    return found if isinstance(found, list) and all(isinstance(host, str) for host in found) else []
