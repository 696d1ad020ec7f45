"""The verbs of `endcap tokens`: who may ask a server, and for what."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Use(StrEnum):
    """What a token may be used for."""

    PREDICT = "predict"
    READ = "read"
    ADMIN = "admin"


tokens = typer.Typer(
    name="tokens",
    short_help="Make, list and remove tokens of servers.",
    help="""Make, list and remove tokens of servers.

The file holds hashes alone. Servers that were started with it see a change within a second or two.""",
    no_args_is_help=True,
    rich_markup_mode=None,
)

File = Annotated[
    Path,
    typer.Option("--file", envvar="ENDCAP_TOKENS_FILE", help="The file of tokens: YAML, or JSON where it ends so."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Who holds it; logs and limits know the caller by this.")]
_DEFAULT_FILE = Path("tokens.yaml")


@tokens.command(short_help="Make a token and show it, once.")
def new(
    name: Name,
    scope: Annotated[
        list[Use],
        typer.Option(
            help="predict: predictions; read: status, metadata, metrics; admin: the admin port. Again for more."
        ),
    ],
    model: Annotated[list[str] | None, typer.Option(help="For this model alone; again for more.")] = None,
    requests_per_second: Annotated[
        float | None, typer.Option(help="Predictions a second, over which the answer is 429.")
    ] = None,
    concurrent_requests: Annotated[
        int | None, typer.Option(help="Predictions under way at once, over which the answer is 429.")
    ] = None,
    file: File = _DEFAULT_FILE,
) -> None:
    """Make a token, print it on a line of its own, and add its hash to the file."""
    from endcap.serving.token_file import SCOPES, TokenEntry, add_token

    asked = {use.value for use in scope}
    scopes = [one for one in SCOPES if one in asked]
    entry = TokenEntry(name, "", scopes, model or None, requests_per_second, concurrent_requests)
    typer.echo(add_token(file, entry))
    typer.echo(f"The token of {name}: it is shown this once. Its hash is in {file}.", err=True)


@tokens.command("list", short_help="List names and scopes.")
def list_all(file: File = _DEFAULT_FILE) -> None:
    """List the tokens by name, with what each may do."""
    from endcap.serving.token_file import read_tokens

    for entry in read_tokens(file):
        limits = {"models": entry.models and ", ".join(entry.models), "a second": entry.requests_per_second}
        limits["at once"] = entry.concurrent_requests
        told = "".join(f"; {name}: {value}" for name, value in limits.items() if value is not None)
        typer.echo(f"{entry.name}: {', '.join(entry.scopes)}{told}")


@tokens.command(short_help="Remove a token.")
def remove(name: Name, file: File = _DEFAULT_FILE) -> None:
    """Take a token out of the file: servers refuse it from then on."""
    from endcap.serving.token_file import remove_token

    remove_token(file, name)
    typer.echo(f"{name} is out of {file}. Servers that read it refuse the token within a second or two.")
