"""The `endcap` command: verbs in the order of the data, each a thin call into a flow.

Heavy imports stand inside the commands, so that `endcap --help` answers at once.
"""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Annotated, Literal

import typer

from endcap import __version__
from endcap.cli.data import data
from endcap.cli.features import features, run_dates
from endcap.cli.ingest_command import ingest
from endcap.cli.lake import lake
from endcap.cli.options import (
    DryRun,
    FirstDate,
    HealthHost,
    HealthPort,
    Jobs,
    LastDate,
    LogFormat,
    LogFormatOption,
    MemoryLimit,
    Overrides,
    Processes,
    SessionGap,
    WorkspaceOption,
)
from endcap.cli.quicktest_command import quicktest
from endcap.cli.releases import releases
from endcap.cli.serve_command import serve
from endcap.cli.submit_command import submit
from endcap.cli.tokens import tokens
from endcap.cli.verbs import InOrderOfTheData

app = typer.Typer(
    name="endcap",
    cls=InOrderOfTheData,
    help="""A shop's events and catalog in, recommendations in production out.

The verbs, in the order of the data: init, ingest, profile, features, train (fit, evaluate, judge, release), evaluate,
serve. Besides: backfill makes dates again after a change, lake keeps the tables, synth makes up a shop.
`endcap demo` runs them all on a real shop's purchases.""",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data)
app.add_typer(features)
app.add_typer(lake)
app.add_typer(releases)
app.add_typer(tokens)


@app.command(short_help="Make a workspace.")
def init(directory: Annotated[Path, typer.Argument(help="Folder to make, or an empty one to use.")]) -> None:
    """Make a workspace: the folders that data, runs and releases live in.

    Running it again on a workspace changes nothing.
    """
    from endcap.workspace.layout import Workspace

    workspace = Workspace.init(directory)
    typer.echo(f"Workspace ready at {workspace.path}.")
    typer.echo("Next, with a file of events: endcap ingest --suggest FILE, which proposes how to read it, then")
    typer.echo(f"  endcap ingest --source files --mapping mapping.yaml FILE --workspace {directory}")


app.command(short_help="Read a shop's export into checked tables.")(ingest)


@app.command(short_help="Look at the tables: what each column holds.")
def profile(
    table: Annotated[
        str | None, typer.Option("--table", "-t", help="One table, such as events; all of the dataset by default.")
    ] = None,
    version: Annotated[
        int | None, typer.Option("--version", min=0, help="A version of --table; by default the one in force.")
    ] = None,
    dataset_version: Annotated[
        int | None, typer.Option("--dataset-version", min=1, help="A number of `endcap lake versions`.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Write a page per table: counts, nulls, ranges, commonest values, rows by day, where every row went.

    The pages stand in 06_reports/profiles and need no network. Ids of users are hashed.
    """
    from endcap.cli.profile import run_profile

    run_profile(workspace, log_format, table=table, version=version, dataset_version=dataset_version, show=show)


@app.command(short_help="Measure how the newest days differ from those before.")
def drift(
    first: Annotated[str | None, typer.Option("--from", help="First day; by default a week up to the last.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day; by default the newest with events.")] = None,
    reference_version: Annotated[
        int | None,
        typer.Option(min=0, help="Compare with this version of the events, whole; by default with the 28 days before."),
    ] = None,
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Measure drift and freshness per hour and day, and write the numbers into the table `drift`.

    Measuring the same days of the same tables again changes nothing. `endcap profile` draws the numbers.
    """
    from endcap.cli.profile import run_drift

    run_drift(workspace, log_format, first=first, last=last, reference_version=reference_version)


@app.command(short_help="Make a range of dates again, as far as something changed.")
def backfill(
    first: FirstDate = None,
    last: LastDate = None,
    step: Annotated[
        list[str] | None,
        typer.Option("--step", "-s", help="One of events, catalog, daily, windows; again for more; by default all."),
    ] = None,
    session_gap_minutes: SessionGap = None,
    jobs: Jobs = 1,
    dry_run: DryRun = False,
    memory_limit: MemoryLimit = "1GB",
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Make every date what it would be if it were made today: events, products and users, daily aggregates, windows.

    What is done already, with the same inputs, configuration and code, is left alone. Killed and started again, it goes
    on where it was. Exit code 0: all is done; 1: something failed, the rest is done; 2: wrong input, nothing was run; 3:
    the disk is full, what was not begun by then is left out.
    """
    run_dates(workspace, first, last, step or [], log_format, jobs=jobs, dry_run=dry_run, memory_limit=memory_limit,
              session_gap_minutes=session_gap_minutes)  # fmt: skip


@app.command(short_help="Train, evaluate, judge and release.")
def train(
    overrides: Overrides = None,
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
    health_port: HealthPort = None,
    health_host: HealthHost = "127.0.0.1",
    processes: Processes = 1,
) -> None:
    """Train a model, evaluate it beside the baselines, judge it, and pack a release.

    The same as `python -m train.main`. `endcap config` shows every key that can be overridden. With the variables of a
    training job (STAGING_PREFIX, MODEL_DIR, …) in the environment, input is brought from there and the release written there.
    """
    from endcap.cli.train import run_together, run_train

    if processes > 1:
        probed = [] if health_port is None else ["--health-port", str(health_port), "--health-host", health_host]
        run_together(processes, overrides or [], workspace, log_format, probed)
        return
    run_train(overrides or [], workspace, log_format, health_port=health_port, health_host=health_host)


app.command(short_help="Train as a job, here or on a rented machine.")(submit)

app.command(short_help="Try another model on what an earlier run was trained on.")(quicktest)


@app.command(short_help="Search for settings that do better.")
def search(
    overrides: Overrides = None,
    workspace: WorkspaceOption = Path(),
    num_trials: Annotated[int, typer.Option(min=1, help="How many sets of settings are tried.")] = 20,
    name: Annotated[str, typer.Option(help="Of the search: one that was stopped goes on.")] = "default",
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Search for settings that do better on the eval period; the test period is never looked at.

    Ranges are written as Hydra's sweeps: training.learning_rate='tag(log,interval(1e-4,1e-2))',
    model.output_embedding_dim='choice(33,65,97)', training.num_negatives='int(interval(128,2048))'. Optuna proposes, trials
    that do badly are cut after an epoch, and a search that was stopped goes on where it was.
    """
    from endcap.cli.search import run_search

    run_search(overrides or [], workspace, log_format, num_trials, name)


@app.command(short_help="Score a release again, or anyone's recommendations.")
def evaluate(
    release: Annotated[
        Path | None, typer.Argument(help="A release's folder, below 04_releases of the workspace.")
    ] = None,
    recommendations: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a release: user_id, item_id, rank or score; or user_id, item_ids (Parquet or CSV)."
        ),
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="What was wanted: user_id, item_id, perhaps value.")] = None,
    k: Annotated[list[int] | None, typer.Option("--k", "-k", help="Again for more; by default 5, 10, 50, 100.")] = None,
    items: Annotated[
        Path | None, typer.Option(help="The catalog: item_id, perhaps category, vector; adds coverage, diversity.")
    ] = None,
    history: Annotated[
        Path | None, typer.Option(help="What customers had before: user_id, item_id; adds novelty, popularity, slices.")
    ] = None,
    users: Annotated[Path | None, typer.Option(help="Customers: user_id and columns to slice by.")] = None,
    slices: Annotated[list[str] | None, typer.Option(help="A column to group by; again for more.")] = None,
    score_means: Annotated[
        Literal["probability", "value"] | None,
        typer.Option(help="What score is: adds AUC, log loss, calibration; or RMSE and MAE against value."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for a page and all figures as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as JSON on standard output.")] = False,
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Score a release again on its test period, beside the baselines, and write the report.

    Uses the release's own files, as the server does: what is measured is what is served.

    With --recommendations and --truth it measures anyone's lists instead, and needs no workspace.
    """
    if (release is None) == (recommendations is None) or (recommendations is None) != (truth is None):
        raise typer.BadParameter("give a release's folder, or both --recommendations FILE and --truth FILE")
    if release is not None:
        from endcap.cli.train import run_evaluate

        run_evaluate(release, workspace, log_format)
    elif recommendations is not None and truth is not None:
        from endcap.cli.compare import run_evaluate_files
        from endcap.evaluation.assess import Files

        run_evaluate_files(
            Files({recommendations.stem: recommendations}, truth, items, history, users), ks=k or [], slices=slices or [],
            score_means=score_means, seed=seed, out=out, as_json=as_json,
        )  # fmt: skip


@app.command(short_help="Compare what runs recommend.")
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN RUN...", help="Run ids, releases' folders or files; perhaps NAME=RUN.")
    ],
    truth: Annotated[Path | None, typer.Option(help="For files: what was wanted, user_id and item_id.")] = None,
    items: Annotated[Path | None, typer.Option(help="The catalog: item_id, perhaps category, vector.")] = None,
    k: Annotated[list[int] | None, typer.Option("--k", "-k", help="Again for more; by default 5, 10, 50, 100.")] = None,
    slices: Annotated[list[str] | None, typer.Option(help="A column to group by; again for more.")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page; by default among the workspace's reports.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as JSON on standard output.")] = False,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Compare runs customer by customer: metrics, differences to the first with intervals, slices; a table and a page.

    Runs must have been judged on the same purchases. Files of recommendations are compared with --truth, or beside a run.
    """
    from endcap.cli.compare import run_compare

    run_compare(
        runs, workspace, truth=truth, items=items, ks=k or [], slices=slices or [], seed=seed, out=out, as_json=as_json
    )  # fmt: skip


@app.command(short_help="Show the configuration.")
def config(overrides: Overrides = None, workspace: WorkspaceOption = Path()) -> None:
    """Show the configuration that the given overrides lead to, as YAML."""
    from endcap.cli.train import show_configuration

    show_configuration(overrides or [], workspace)


app.command(short_help="Serve a release over HTTP.")(serve)


@app.command(short_help="Make up a shop's events, catalog and logs.")
def synth(
    out: Annotated[Path, typer.Argument(help="Folder to make; it must not exist.")],
    events: Annotated[str, typer.Option(help="Distinct events, such as 500k or 20M.")] = "1M",
    days: Annotated[int, typer.Option(help="Days from the first to the last event.")] = 30,
    users: Annotated[str | None, typer.Option(help="People; by default one for every 40 events.")] = None,
    items: Annotated[str | None, typer.Option(help="Products; by default one for every 400 events.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed and options give the same files.")] = 1,
    start: Annotated[str, typer.Option(help="First day, UTC.")] = "2026-01-05",
    duplicates: Annotated[float, typer.Option(help="Share of events that stand twice.")] = 0.01,
    late: Annotated[float, typer.Option(help="Share of events in the file of a later day.")] = 0.005,
    file_format: Annotated[
        Literal["parquet", "csv", "jsonl"], typer.Option("--format", help="Of the event files.")
    ] = "parquet",
    workspace: Annotated[
        Path | None,
        typer.Option("--workspace", "-w", help="Hash the logs' users by its key, so that they can be joined there."),
    ] = None,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Make up a shop's clickstream, catalog and logs of lists, for trials and benchmarks.

    truth.json tells how many events, duplicates and sessions there are. Next: endcap ingest --source files OUT/events.
    """
    from endcap.cli.synth import run_synth

    run_synth(out, events, days, users, items, seed, start, duplicates, late, file_format, log_format, workspace)


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


def app_of(verb: str) -> typer.Typer:
    """The app with this verb alone, for making all of them ready takes longer than importing one; whole for a word that is none."""
    commands = [one for one in app.registered_commands if one.callback is not None and one.callback.__name__ == verb]
    groups = [
        one for one in app.registered_groups if one.typer_instance is not None and one.typer_instance.info.name == verb
    ]
    if not commands and not groups:
        return app
    alone = copy(app)
    alone.registered_commands, alone.registered_groups = commands, groups
    return alone
