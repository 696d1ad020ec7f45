"""The verb `ingest`: its options, and how they become the settings of an ingest."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from endcap.cli.options import LogFormat, LogFormatOption, SessionGap, WorkspaceOption

Share = Annotated[
    float, typer.Option(min=0, max=1, help="Refuse a batch with a larger share of rows that can't be used.")
]


def ingest(
    path: Annotated[Path, typer.Argument(help="The export to read: a file or a folder.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            "-s",
            help="Format of the export: files (any Parquet, CSV or JSON lines), ga4, google_retail, personalize, gorse, "
            "rees46, staging, logs, online_retail.",
        ),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="For --source files: which column is what (YAML); guessed without.")
    ] = None,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Only look at PATH and propose a mapping, with the rows it would keep.")
    ] = False,
    catalog_as_of: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            metavar="DATE",
            help="Since when (UTC) a catalog holds that doesn't say it itself; by default since this moment.",
        ),
    ] = None,
    session_gap_minutes: SessionGap = None,
    max_events_per_day: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Users with more events on one day are taken for bots; by default as chosen last, at first 2000.",
        ),
    ] = None,
    late_days: Annotated[int, typer.Option(min=0, help="Events this much older than the newest count as late.")] = 3,
    future_days: Annotated[
        int, typer.Option(min=0, help="Events further ahead of this moment go to quarantine until their time comes.")
    ] = 1,
    max_quarantined_share: Share = 0.5,
    max_quarantined: Annotated[
        list[str] | None,
        typer.Option(metavar="REASON=SHARE", help="The same for one reason, such as bad_price=0.01; again for more."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Allow that dates are lost which replaced batches brought.")
    ] = False,
    memory_limit: Annotated[
        str, typer.Option(help="Memory that the query engine may use; what doesn't fit goes to disk.")
    ] = "1GB",
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Read a shop's export into checked event, item and user tables.

    Rows that can't be used go to a quarantine table with a reason; every row is accounted for.
    Ingesting the same export again changes nothing; a file that changed takes the place of what it brought before.
    """
    if suggest:
        from endcap.cli.suggest import run_suggest

        run_suggest(path, log_format)
        return
    if source is None:
        raise typer.BadParameter(
            "say the export's format, or --suggest to be told what it may be", param_hint="--source"
        )
    from endcap.cli.ingest import run_ingest, shares
    from endcap.ingest.quality import US_PER_SECOND, IngestSettings

    settings = IngestSettings(
        session_gap_minutes=session_gap_minutes,
        max_events_per_user_per_day=max_events_per_day,
        late_days=late_days,
        future_days=future_days,
        max_quarantined_share=max_quarantined_share,
        max_quarantined=shares(max_quarantined or []),
        catalog_as_of_us=None
        if catalog_as_of is None
        else int(catalog_as_of.replace(tzinfo=UTC).timestamp()) * US_PER_SECOND,
    )
    run_ingest(
        path, source, workspace, log_format, settings=settings, mapping=mapping, replace=replace,
        memory_limit=memory_limit,
    )  # fmt: skip
