"""The verb `serve`: its options, and the release that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


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
    from endcap.workspace.layout import MARKER, Workspace

    if workspace is None and Path(MARKER).is_file():
        workspace = Path()
    if workspace is not None and not release.exists():
        from endcap.releases.ancestry import resolve

        release = resolve(Workspace.open(workspace), str(release))
    run_server(
        release,
        host=host,
        port=port,
        model_name=model_name,
        auth=auth,
        on_ready=lambda url: typer.echo(f"Serving {release} as {model_name} at {url}"),
    )
