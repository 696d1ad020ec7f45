"""Arguments in, the exit code of a verb out: what failed is told in a line."""

from __future__ import annotations

import gc
import sys

from endcap.contracts.errors import EndcapError
from endcap.contracts.stopping import Stopped
from endcap.workspace.redaction import guard_process, redact

EXIT_INPUT = 2
EXIT_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit code 2 for wrong input, damaged files, full disks; 130 or 143 when stopped."""
    guard_process()
    arguments = sys.argv[1:] if arguments is None else arguments
    verb = arguments[0] if arguments else ""
    if verb == "serve":
        # What is imported stays, yet the collector would look through all of it again and again, for a tenth of the
        # start. The server lets it go on as soon as it answers.
        gc.disable()
    try:
        if verb == "serve":
            arguments = _without_tensorflow_flags(arguments)
        from endcap.cli.app import app_of

        app_of(verb)(
            args=arguments, prog_name="endcap"
        )  # however it was started: python -m train.main, python -m endcap
    except EndcapError as error:
        _say(redact(f"error: {error}"))
        sys.exit(EXIT_INPUT)
    except OSError as error:
        from endcap.engines.failures import plain

        found = plain(error, "the workspace")
        if found is None:
            raise
        _say(redact(f"error: {found}"))
        sys.exit(EXIT_INPUT)
    except Stopped as stopped:
        _say(str(stopped))
        stopped.end_process()
    except KeyboardInterrupt:
        _say("Interrupted; the last good state stands.")
        sys.exit(EXIT_INTERRUPTED)
    finally:
        gc.enable()


def _without_tensorflow_flags(arguments: list[str]) -> list[str]:
    from endcap.cli.tensorflow_flags import translate

    translated, passed_over = translate(arguments[1:])
    if passed_over:
        names = ", ".join(f"--{name}" for name in passed_over)
        _say(f"Passed over, for there is nothing here that it could tell: {names}")
    return ["serve", *translated]


def _say(message: str) -> None:
    import typer

    typer.echo(message, err=True)
