"""The verb `serve`: its options, and the release that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from endcap.serving.sources import Source


def serve(
    release: Annotated[
        Path,
        typer.Argument(envvar="MODEL_PATH", help="A release's folder; of a workspace also NAME@ALIAS or NAME/VERSION."),
    ],
    host: Annotated[str, typer.Option(help="Address to bind; any but loopback needs --auth.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="PORT", min=0, max=65535, help="Port of the REST server; 0: any free one.")
    ] = 8501,
    model_name: Annotated[str, typer.Option(envvar="MODEL_NAME", help="Name in the URL.")] = "recommender",
    auth: Annotated[
        Literal["token", "none"] | None,
        typer.Option(
            help="token: a bearer token from the environment variable ENDCAP_TOKEN; none: no check, on purpose."
        ),
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            "-w",
            envvar="ENDCAP_WORKSPACE",
            help="Where NAME@ALIAS and NAME/VERSION are looked up; by default here, where that is a workspace.",
        ),
    ] = None,
) -> None:
    """Serve a release over TensorFlow Serving's REST.

    POST /v1/models/recommender:predict with {"instances": [{"user_id": "…"}]}. SIGTERM drains and stops.
    """
    from endcap.serving import run_server
    from endcap.serving.settings import ModelSettings, ServerSettings

    model = ModelSettings(model_name, _source(str(release), workspace))
    settings = ServerSettings((model,), host=host, port=port, auth=auth)
    run_server(settings, on_ready=lambda url: typer.echo(f"Serving {release} as {model_name} at {url}"))


def _source(said: str, workspace: Path | None) -> Source:
    """Where the versions come from that a person means: an alias, a version or a name of a workspace, or a path."""
    from endcap.releases.ancestry import resolve
    from endcap.serving.sources import AliasOfReleases, source_of
    from endcap.workspace.layout import MARKER, Workspace

    path = Path(said)
    if workspace is None and Path(MARKER).is_file():
        workspace = Path()
    if workspace is None or path.exists():
        return source_of(path)
    opened = Workspace.open(workspace)
    path = resolve(opened, said)
    if "@" in said:
        name, _, alias = said.rpartition("@")
        return AliasOfReleases(opened.releases, name or path.parent.name, alias)
    return source_of(path)
