"""The verb `serve`: its options, and the models that they name."""

# Annotations are values here. Were they texts, the CLI library would compile each of them twice at every start.
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from endcap.contracts.errors import InputError

if TYPE_CHECKING:
    from endcap.serving.settings import BatchingSettings, ModelSettings, VersionPolicy
    from endcap.serving.sources import Source

_VERSIONS = "Which versions are loaded and which answers"
_DOORS = "Who is let in, and who may change what is served"
_LOGS = "What is written down"
_PROCESS = "How requests are worked off"


def serve(
    release: Annotated[
        str | None,
        typer.Argument(
            envvar=["MODEL_PATH", "AIP_STORAGE_URI"],
            help="A release's folder, a folder of versions, an address (gs://…, s3://…); of a workspace also NAME@ALIAS, "
            "NAME/VERSION or NAME.",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            envvar="ENDCAP_HOST", help="Address to bind; any but loopback needs --auth.  [default: 127.0.0.1]"
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            envvar=["AIP_HTTP_PORT", "PORT"], min=0, max=65535, help="Port of the REST server; 0: any free one."
        ),
    ] = 8501,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            envvar="ENDCAP_GRPC_PORT",
            min=0,
            max=65535,
            help="Port of gRPC (TensorFlow Serving's stub, tritonclient); 0: none.  [default: 8500, where that is free]",
        ),
    ] = None,
    model_name: Annotated[str, typer.Option(envvar="MODEL_NAME", help="Name in the URL.")] = "recommender",
    auth: Annotated[
        Literal["token", "none"] | None,
        typer.Option(
            envvar="ENDCAP_AUTH",
            help="token: the bearer token in the environment variable ENDCAP_TOKEN, or one of --tokens-file; "
            "none: no check, on purpose.",
        ),
    ] = None,
    tokens_file: Annotated[
        Path | None,
        typer.Option(
            envvar="ENDCAP_TOKENS_FILE",
            help="Tokens by hash, with what each may do; `endcap tokens new` writes it. Read again when it changes.",
            rich_help_panel=_DOORS,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that a Host header may have on loopback, such as that of a proxy's site; may be repeated.",
            rich_help_panel=_DOORS,
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="A site whose pages may ask from a browser, such as https://shop.example; may be repeated.",
            rich_help_panel=_DOORS,
        ),
    ] = None,
    client_requests_per_second: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Predictions that one client gets, by its token or else its address; over it the answer is 429.",
            rich_help_panel=_DOORS,
        ),
    ] = None,
    client_concurrent_requests: Annotated[
        int | None,
        typer.Option(min=1, help="Predictions that one client may have under way.", rich_help_panel=_DOORS),
    ] = None,
    admin_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Port of the admin server: versions, policies, labels; without, there is none.",
            rich_help_panel=_DOORS,
        ),
    ] = None,
    admin_host: Annotated[
        str,
        typer.Option(help="Its address; any but loopback needs tokens with the scope admin.", rich_help_panel=_DOORS),
    ] = "127.0.0.1",
    control_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps what is set by the admin server, for the next start; without, it is forgotten.",
            rich_help_panel=_DOORS,
        ),
    ] = None,
    access_log: Annotated[
        str,
        typer.Option(
            metavar="PATH|-|off", help="A line of JSON for each request; - is standard output.", rich_help_panel=_LOGS
        ),
    ] = "off",
    access_log_sample: Annotated[
        float, typer.Option(min=0, max=1, help="The share of requests that get one.", rich_help_panel=_LOGS)
    ] = 1.0,
    request_log: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="What was recommended to whom, as `endcap ingest --source logs` reads it; users by their hash, whose key is the "
            "workspace's or stands in ENDCAP_USER_KEY.",
            rich_help_panel=_LOGS,
        ),
    ] = None,
    request_log_sample: Annotated[
        float, typer.Option(min=0, max=1, help="The share of recommendations written there.", rich_help_panel=_LOGS)
    ] = 1.0,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            "-w",
            envvar="ENDCAP_WORKSPACE",
            help="Where NAME@ALIAS and NAME/VERSION are looked up; by default here, where that is a workspace.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PLACE",
            help="One more model, of which the newest version is served; may be repeated.",
            rich_help_panel=_VERSIONS,
        ),
    ] = None,
    versions: Annotated[
        str,
        typer.Option(
            metavar="latest[:N]|all|N,N…",
            help="Of RELEASE: the newest versions, every one, or those named (a pin, for a rollback).",
            rich_help_panel=_VERSIONS,
        ),
    ] = "latest",
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL=VERSION",
            help="A name for a version of RELEASE, beside the registry's aliases; may be repeated.",
            rich_help_panel=_VERSIONS,
        ),
    ] = None,
    poll_seconds: Annotated[
        float,
        typer.Option(
            min=0, help="How often versions are looked for; 0: at the start alone.", rich_help_panel=_VERSIONS
        ),
    ] = 1.0,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that answer on the port.", rich_help_panel=_PROCESS)
    ] = 1,
    timeout_ms: Annotated[
        int,
        typer.Option(
            min=1, max=600_000, help="Deadline of requests without x-request-timeout-ms.", rich_help_panel=_PROCESS
        ),
    ] = 10_000,
    batching: Annotated[
        bool,
        typer.Option(
            "--batching",
            help="Let batches wait for others to fill them, as TensorFlow Serving does; without, whatever queued while "
            "the last batch ran is the next one, which answers sooner.",
            rich_help_panel=_PROCESS,
        ),
    ] = False,
    batching_parameters_file: Annotated[
        Path | None,
        typer.Option(help="TensorFlow Serving's parameters in text form, for --batching.", rich_help_panel=_PROCESS),
    ] = None,
    model_config_file: Annotated[
        Path | None,
        typer.Option(
            help="TensorFlow Serving's list of models in text form: name, base_path, model_version_policy, "
            "version_labels. Read again when it changes.",
            rich_help_panel=_VERSIONS,
        ),
    ] = None,
    page: Annotated[
        bool,
        typer.Option(
            "--page/--no-page",
            help="Answer a page at / on which people try what is served, and the searches for products that it asks.",
        ),
    ] = True,
    model_root: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE",
            help="Below it lie models that a running server may be told to serve; without, only those of the start.",
            rich_help_panel=_VERSIONS,
        ),
    ] = None,
    base_path: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve releases over TensorFlow Serving's REST.

    POST /v1/models/recommender:predict with {"instances": [{"user_id": "…"}]}. A version that appears in a folder of
    versions, or that an alias moves to, takes over without a lost request. SIGTERM drains and stops. TensorFlow Serving's
    own flags are understood too (--rest_api_port, --model_base_path, …).
    """
    from endcap.serving import run_server
    from endcap.serving.settings import ServerSettings

    place = release or base_path
    models = _models(place, model_name, versions, label or [], model or [], model_config_file, workspace)
    settings = ServerSettings(
        models,
        host=host or ("0.0.0.0" if "AIP_HTTP_PORT" in os.environ else "127.0.0.1"),  # noqa: S104 (Vertex AI's container)
        port=port,
        grpc_port=grpc_port,
        auth=auth,
        tokens_file=tokens_file,
        allowed_hosts=tuple(allowed_host or ()),
        cors_origins=tuple(cors_origin or ()),
        client_requests_per_second=client_requests_per_second,
        client_concurrent_requests=client_concurrent_requests,
        admin_port=admin_port,
        admin_host=admin_host,
        control_dir=control_dir,
        access_log=None if access_log == "off" else access_log,
        access_log_sample=access_log_sample,
        request_log_dir=request_log,
        request_log_sample=request_log_sample,
        user_key=None if access_log == "off" and request_log is None else _user_key(workspace),
        poll_seconds=poll_seconds,
        timeout_seconds=timeout_ms / 1000,
        health_route=os.environ.get("AIP_HEALTH_ROUTE"),
        predict_route=os.environ.get("AIP_PREDICT_ROUTE"),
        num_workers=workers,
        page=page,
        batching=_batching(batching_parameters_file) if batching else None,
        model_config_file=model_config_file,
        model_roots=tuple(model_root or []),
    )
    served = f"{place} as {model_name}" if len(models) == 1 and place else ", ".join(one.name for one in models)
    run_server(settings, on_ready=lambda url: typer.echo(f"Serving {served} at {url}"))


def _models(
    place: str | None,
    name: str,
    versions: str,
    labels: list[str],
    more: list[str],
    model_config_file: Path | None,
    workspace: Path | None,
) -> "tuple[ModelSettings, ...]":
    """The models that the options name. Raises InputError where there is none, or two have one name."""
    from endcap.serving.settings import ModelSettings

    models: list[ModelSettings] = []
    if place is not None:
        models.append(ModelSettings(name, _source(place, workspace), _policy(versions), _labels(labels), place))
    for said in more:
        name, equals, where = said.partition("=")
        if not (name and equals and where):
            raise InputError(f"--model {said}: expected NAME=PLACE, such as shoes=shop/04_releases/shoes.")
        models.append(ModelSettings(name, _source(where, workspace), place=where))
    if model_config_file is not None:
        if models:
            raise InputError("Models come from --model-config-file, or from RELEASE and --model: give one of the two.")
        from endcap.serving.configuration_files import read_models
        from endcap.serving.sources import source_at

        models = read_models(model_config_file, source_at)
    if not models:
        raise typer.BadParameter("Nothing to serve: give a release, a folder of versions, or --model NAME=PLACE.")
    names = [one.name for one in models]
    if len(set(names)) < len(names):
        raise InputError(f"Two models of one name: {', '.join(names)}. Give each its own (--model-name, --model).")
    return tuple(models)


def _batching(parameters_file: Path | None) -> "BatchingSettings":
    from endcap.serving.settings import BatchingSettings

    if parameters_file is None:
        return BatchingSettings()
    from endcap.serving.configuration_files import read_batching

    return read_batching(parameters_file)


def _policy(said: str) -> "VersionPolicy":
    from endcap.serving.settings import All, Latest, Specific

    kind, colon, number = said.partition(":")
    if kind == "latest" and (not colon or (number.isdigit() and int(number) > 0)):
        return Latest(int(number) if colon else 1)
    if said == "all":
        return All()
    numbers = said.split(",")
    if not all(one.isdigit() for one in numbers):
        raise InputError(f"--versions {said}: expected latest, latest:N, all, or numbers such as 3 or 3,4.")
    return Specific(tuple(map(int, numbers)))


def _labels(said: list[str]) -> dict[str, int]:
    labels: dict[str, int] = {}
    for one in said:
        name, _, number = one.partition("=")
        if not (name and number.isdigit()):
            raise InputError(f"--label {one}: expected LABEL=VERSION, such as stable=3.")
        labels[name] = int(number)
    return labels


def _user_key(workspace: Path | None) -> bytes | None:
    """What ids are hashed by in logs: the variable's key, else the workspace's; None where there is neither."""
    from endcap.workspace.layout import MARKER, Workspace, key_of

    digits = os.environ.get("ENDCAP_USER_KEY", "").strip()
    if digits:
        key = key_of(digits)
        if key is None:
            raise InputError(
                "ENDCAP_USER_KEY is no workspace's key: expected 64 hexadecimal digits, as endcap.yaml has them."
            )
        return key
    if workspace is None and Path(MARKER).is_file():
        workspace = Path()
    return Workspace.open(workspace).key if workspace is not None else None


def _source(said: str, workspace: Path | None) -> "Source":
    """Where the versions come from that a person means: an alias, a version or a name of a workspace, or a place."""
    from endcap.serving.sources import AliasOfReleases, source_at

    if "://" in said or Path(said).exists():
        return source_at(said)
    from endcap.releases.ancestry import resolve
    from endcap.workspace.layout import MARKER, Workspace

    if workspace is None and Path(MARKER).is_file():
        workspace = Path()
    if workspace is None:
        return source_at(said)
    opened = Workspace.open(workspace)
    path = resolve(opened, said)
    if "@" in said:
        name, _, alias = said.rpartition("@")
        return AliasOfReleases(opened.releases, name or path.parent.name, alias)
    return source_at(str(path))
