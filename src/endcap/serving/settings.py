"""What a server is told at its start: models and where they come from, versions, addresses, limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from endcap.serving.sources import Source

Auth = Literal["token", "none"]


class Latest(msgspec.Struct, frozen=True):
    """The newest versions."""

    num_versions: int = 1
    """How many of them."""


class All(msgspec.Struct, frozen=True):
    """Every version that is there."""


class Specific(msgspec.Struct, frozen=True):
    """Some versions, whatever else is there."""

    versions: tuple[int, ...]
    """The numbers."""


VersionPolicy = Latest | All | Specific


class ModelSettings(msgspec.Struct, frozen=True):
    """One model of a server."""

    name: str
    """In the URL."""
    source: Source
    """Where its versions come from."""
    policy: VersionPolicy = Latest()
    """Which of them are loaded."""
    labels: Mapping[str, int] = {}
    """Names of versions; they count over those of the source."""
    place: str = ""
    """What the source was made of, as it was said."""


class BatchingSettings(msgspec.Struct, frozen=True):
    """TensorFlow Serving's dynamic batching: a batch waits a while for others to fill it."""

    max_batch_size: int = 64
    """Instances (or pairs) of a batch; a larger request is a batch by itself."""
    batch_timeout_micros: int = 10_000
    """How long the first request of a batch waits for others."""
    max_enqueued_batches: int = 100
    """Full batches that may wait; requests beyond are refused with 503."""
    num_batch_threads: int = 4
    """Batches that are computed at once."""
    pad_variable_length_inputs: bool = True
    """Histories of one batch are always padded to the longest of them; kept so that files that say it are understood."""


class ServerSettings(msgspec.Struct, frozen=True):
    """One server."""

    models: tuple[ModelSettings, ...]
    """At least one; names differ."""
    host: str = "127.0.0.1"
    """The address to bind."""
    port: int = 8501
    """REST; 0: any free one."""
    grpc_port: int | None = None
    """gRPC; 0: none; None: 8500 where that is free."""
    auth: Auth | None = None
    """`token` or `none`; None is enough on loopback."""
    tokens_file: Path | None = None
    """Hashes of tokens and what each may do; read again when it changes."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that a Host header may have on loopback, beside localhost, addresses and names without a dot."""
    cors_origins: tuple[str, ...] = ()
    """Sites whose pages may read answers."""
    client_requests_per_second: float | None = None
    """Predictions of one client, by its token's name or else its address; a token's own limit counts more. None: any."""
    client_concurrent_requests: int | None = None
    """Predictions of one client under way at once; None: any."""
    admin_port: int | None = None
    """Where models are administered; None: nowhere."""
    admin_host: str = "127.0.0.1"
    """The address of the admin port."""
    control_dir: Path | None = None
    """Where the operator's policies and labels are kept, for all processes and the next start; None: in memory."""
    access_log: str | None = None
    """A file for a line of each request, or - for standard output; None: none."""
    access_log_sample: float = 1.0
    """The share of requests that are written there."""
    request_log_dir: Path | None = None
    """A folder for what was recommended to whom; None: nowhere."""
    request_log_sample: float = 1.0
    """The share of recommendations that are written there."""
    request_log_flush_seconds: float = 60.0
    """How long recommendations are gathered for one file."""
    user_key: bytes | None = None
    """What users' ids are hashed by in logs: the workspace's key."""
    poll_seconds: float = 1.0
    """How often the sources are looked at; 0: only at the start."""
    timeout_seconds: float = 10.0
    """The deadline of a request that names none."""
    health_route: str | None = None
    """A second path of `/health`."""
    predict_route: str | None = None
    """A second path of the main model's predictions."""
    model_config_file: Path | None = None
    """Where the models were read from; looked at again while the server runs, as the sources are."""
    model_roots: tuple[str, ...] = ()
    """Places below which models may be taken from that are named while the server runs; without, only those of the start."""
    num_workers: int = 1
    """Processes that answer; what they load is read from the same files in memory."""
    page: bool = True
    """Whether `/` answers a page for people, and the routes that it asks."""
    batching: BatchingSettings | None = None
    """None: greedy batches, whatever queued while the last one ran."""

    def __repr__(self) -> str:
        """All but the key, which is a secret."""
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name != "user_key")
        return f"ServerSettings({', '.join(shown)})"
