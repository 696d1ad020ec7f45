"""The `endcap` command: verbs in the order of the data, each a thin call into a flow.

Heavy imports stand inside the commands, so that `endcap --help` answers at once.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from endcap import __version__
from endcap.contracts.errors import EndcapError

EXIT_INPUT = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="endcap",
    help="""A shop's events and catalog in, recommendations in production out.

The verbs, in the order of the data: init, ingest, features, train (fit, evaluate, judge, release), evaluate, serve.
`endcap demo` runs them all on a real shop's purchases.""",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class LogFormat(StrEnum):
    """How progress is told."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-w", envvar="ENDCAP_WORKSPACE", help="The workspace's folder.")
]
LogFormatOption = Annotated[
    LogFormat,
    typer.Option(
        "--log-format",
        help="text: a progress bar; json: JSON lines on standard output; auto: text at a terminal, else JSON lines.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Configuration, such as experiment=baseline training.num_epochs=3."),
]


@app.command(short_help="Make a workspace.")
def init(directory: Annotated[Path, typer.Argument(help="Folder to make, or an empty one to use.")]) -> None:
    """Make a workspace: the folders that data, runs and releases live in.

    Running it again on a workspace changes nothing.
    """
    from endcap.workspace.layout import Workspace

    workspace = Workspace.init(directory)
    typer.echo(f"Workspace ready at {workspace.path}.")
    typer.echo(f"Next: endcap ingest --source online_retail FILE --workspace {directory}")


@app.command(short_help="Read a shop's export into checked tables.")
def ingest(
    path: Annotated[Path, typer.Argument(help="The export to read.")],
    source: Annotated[str, typer.Option("--source", "-s", help="Format of the export: online_retail.")],
    session_gap_minutes: Annotated[
        int, typer.Option(min=1, help="A longer pause between a user's events begins a new session.")
    ] = 30,
    replace: Annotated[
        bool, typer.Option("--replace", help="Allow that dates which the tables hold are missing from the file.")
    ] = False,
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Read a shop's export into checked event, item and user tables.

    Rows that can't be used go to a quarantine table with a reason; every row is accounted for.
    Ingesting the same file again changes nothing.
    """
    from endcap.cli.ingest import run_ingest

    run_ingest(path, source, workspace, log_format, session_gap_minutes=session_gap_minutes, replace=replace)


@app.command(short_help="Build the feature tables.")
def features(
    overrides: Overrides = None, workspace: WorkspaceOption = Path(), log_format: LogFormatOption = LogFormat.AUTO
) -> None:
    """Build the feature tables: questions, histories and catalogs as of their moment, split by time.

    `endcap train` does this by itself when they are missing.
    """
    from endcap.cli.train import run_features

    run_features(overrides or [], workspace, log_format)


@app.command(short_help="Train, evaluate, judge and release.")
def train(
    overrides: Overrides = None, workspace: WorkspaceOption = Path(), log_format: LogFormatOption = LogFormat.AUTO
) -> None:
    """Train a model, evaluate it beside the baselines, judge it, and pack a release.

    The same as `python -m train.main`. `endcap config` shows every key that can be overridden.
    """
    from endcap.cli.train import run_train

    run_train(overrides or [], workspace, log_format)


@app.command(short_help="Score a release again.")
def evaluate(
    release: Annotated[Path, typer.Argument(help="A release's folder, below 04_releases of the workspace.")],
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Score a release again on its test period, beside the baselines, and write the report.

    Uses the release's own files, as the server does: what is measured is what is served.
    """
    from endcap.cli.train import run_evaluate

    run_evaluate(release, workspace, log_format)


@app.command(short_help="Show the configuration.")
def config(overrides: Overrides = None, workspace: WorkspaceOption = Path()) -> None:
    """Show the configuration that the given overrides lead to, as YAML."""
    from endcap.cli.train import show_configuration

    show_configuration(overrides or [], workspace)


@app.command(short_help="List the workspace's releases.")
def releases(workspace: WorkspaceOption = Path()) -> None:
    """List the workspace's releases: version, verdict, metrics, digest."""
    from endcap.cli.train import list_releases

    list_releases(workspace)


@app.command(short_help="Serve a release over HTTP.")
def serve(
    release: Annotated[Path, typer.Argument(envvar="MODEL_PATH", help="A release's folder.")],
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
) -> None:
    """Serve a release over TensorFlow Serving's REST.

    POST /v1/models/recommender:predict with {"instances": [{"user_id": "…"}]}. SIGTERM drains and stops.
    """
    from endcap.serving import run_server

    run_server(
        release,
        host=host,
        port=port,
        model_name=model_name,
        auth=auth,
        on_ready=lambda url: typer.echo(f"Serving {release} as {model_name} at {url}"),
    )


@app.command(short_help="See it all on a real shop's purchases.")
def demo(
    directory: Annotated[Path, typer.Argument(help="Workspace to make or to go on with.")] = Path("demo"),
    data: Annotated[
        Path | None, typer.Option(help="The invoices; by default those of a clone's examples folder.")
    ] = None,
    keep_serving: Annotated[bool, typer.Option("--keep-serving", help="Leave the server running at the end.")] = False,
) -> None:
    """From a real shop's dirty invoices to served recommendations, in a few minutes.

    Uses the UCI Online Retail purchases in examples/online_retail.
    """
    from endcap.cli.demo import run_demo

    run_demo(directory, data=data, keep_serving=keep_serving)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"endcap {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit code 2 for wrong input or damaged files, 130 when interrupted."""
    try:
        app(args=arguments, prog_name="endcap")  # however it was started: python -m train.main, python -m endcap
    except EndcapError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_INPUT)
    except KeyboardInterrupt:
        typer.echo("Interrupted; the last good state stands.", err=True)
        sys.exit(EXIT_INTERRUPTED)
