"""The verbs of `endcap releases`: which releases there are, where each comes from, and which one an alias names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from endcap.cli.options import WorkspaceOption

releases = typer.Typer(
    name="releases",
    short_help="List releases, show where they come from, move aliases.",
    help="""List the workspace's releases, show where they come from, move aliases.

Without a verb: list.""",
    invoke_without_command=True,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]
Which = Annotated[str, typer.Argument(metavar="NAME/VERSION", help="Such as recommender/3, or recommender@champion.")]


@releases.callback()
def _without_a_verb(context: typer.Context, workspace: WorkspaceOption = Path()) -> None:
    if context.invoked_subcommand is None:
        from endcap.cli.registry import list_releases

        list_releases(workspace, as_json=False)
    elif (source := context.get_parameter_source("workspace")) is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter(
            "give it after the verb: endcap releases list --workspace DIR", param_hint="--workspace"
        )


@releases.command("list", short_help="List releases: version, verdict, aliases, metrics, digest.")
def list_all(workspace: WorkspaceOption = Path(), as_json: Json = False) -> None:
    """List releases by name and version, with their verdict, aliases, metrics and digest."""
    from endcap.cli.registry import list_releases

    list_releases(workspace, as_json=as_json)


@releases.command(short_help="Show where a release comes from: data, features, run.")
def show(release: Which, workspace: WorkspaceOption = Path(), as_json: Json = False) -> None:
    """Show a release with its labels, and where it comes from: versions of the data, feature files, run."""
    from endcap.cli.registry import show_release

    show_release(workspace, release, as_json=as_json)


@releases.command(short_help="Let champion, challenger or shadow name a release.")
def alias(
    release: Annotated[
        str, typer.Argument(metavar="NAME/VERSION", help="Such as recommender/3; with --remove the name.")
    ],
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="champion, challenger or shadow.")],
    reason: Annotated[str, typer.Option("--reason", "-m", help="Why, for the history.")] = "",
    expect: Annotated[
        int | None,
        typer.Option(
            min=0, help="Generation that you saw the alias at, 0: never set; refused when somebody moved it since."
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away.")] = False,
    workspace: WorkspaceOption = Path(),
    as_json: Json = False,
) -> None:
    """Let an alias name a release, all at once; of two who move it at the same moment one is refused."""
    from endcap.cli.registry import move_alias

    move_alias(workspace, release, alias, reason=reason, expect=expect, remove=remove, as_json=as_json)


@releases.command(short_help="Show who moved which alias, when and why.")
def history(
    name: Annotated[str, typer.Argument(help="Name of the model.")] = "recommender",
    alias: Annotated[str | None, typer.Option("--alias", help="One alias; by default all.")] = None,
    workspace: WorkspaceOption = Path(),
    as_json: Json = False,
) -> None:
    """Show every move of the aliases, oldest first."""
    from endcap.cli.registry import show_history

    show_history(workspace, name, alias, as_json=as_json)


@releases.command(short_help="Register a release that was copied here.")
def register(
    release: Annotated[Path, typer.Argument(help="Its folder, below 04_releases of the workspace.")],
    workspace: WorkspaceOption = Path(),
    as_json: Json = False,
) -> None:
    """Register a release that was copied here; `endcap train` does it by itself."""
    from endcap.cli.registry import register_release

    register_release(workspace, release, as_json=as_json)
