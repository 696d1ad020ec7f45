"""What `endcap demo` does: every stage on a real shop's invoices, ending with recommendations from a live server."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

import endcap
from endcap.cli.ingest import show_account
from endcap.cli.reporting import TerminalReporter
from endcap.cli.train import show_comparison
from endcap.contracts.errors import EndcapError, InputError
from endcap.contracts.release import ITEMS, USER_FEATURES
from endcap.evaluation.report import verdict
from endcap.flows.train_run import TrainResult, train_run
from endcap.ingest.pipeline import ingest
from endcap.ingest.sources import SOURCES
from endcap.releases.bundle import Release
from endcap.workspace.configuration import load_configuration
from endcap.workspace.layout import Workspace

SOURCE = "online_retail"
_EXAMPLE = Path("examples") / SOURCE / f"{SOURCE}.parquet"
_UNKNOWN = "a-new-visitor"
_NUM_SHOWN = 5
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 15


@dataclass(frozen=True)
class _Customer:
    """Whom to ask for, and what they bought, last first."""

    user_id: str
    bought: list[str]


def run_demo(directory: Path, *, data: Path | None, keep_serving: bool) -> None:
    """Ingest, train, judge, release, serve, ask for three customers, and say where everything is."""
    console = Console()
    started = time.perf_counter()
    source = _find_data(data)
    SOURCES[SOURCE].batches(source)  # before a workspace is made for nothing
    console.rule("[bold]1  Ingest[/]: dirty invoices to checked tables", align="left")
    workspace = Workspace.init(directory)
    report = TerminalReporter(console)
    show_account(console, ingest(workspace, SOURCE, source, report=report))
    console.rule("[bold]2  Train[/]: features, model, evaluation beside baselines, release", align="left")
    result = train_run(workspace, load_configuration(["experiment=baseline"]), report)
    _show_result(console, result)
    console.rule("[bold]3  Serve[/]: what the server answers", align="left")
    with _server(result.release.path, keep=keep_serving) as (url, pid):
        _show_recommendations(console, result.release, url)
        _show_ending(console, workspace, result, url, pid if keep_serving else None)
    console.print(f"[dim]Done in {time.perf_counter() - started:.0f} s.[/]")


def _find_data(data: Path | None) -> Path:
    if data is not None:
        if not data.is_file():
            raise InputError(f"{data} does not exist or is no file. Give the invoices as Parquet, or leave out --data.")
        return data
    places = [Path(endcap.__file__).parents[2] / _EXAMPLE, Path.cwd() / _EXAMPLE]
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"The demo's data is not there: looked for {' and '.join(map(str, places))}. "
        "Run the demo in a clone of the project, or name the file with --data."
    )


def _show_result(console: Console, result: TrainResult) -> None:
    show_comparison(console, result.comparison)
    sentence = verdict(result.comparison, result.release.manifest.blessing, "ndcg@10").replace("`", "")
    console.print(f"[bold]{sentence}[/]")


def _show_recommendations(console: Console, release: Release, url: str) -> None:
    items = pq.read_table(release.file(ITEMS), columns=["item_id", "title"])
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    customers = [*_pick_customers(pq.read_table(release.file(USER_FEATURES))), _Customer(_UNKNOWN, [])]
    asked = {"instances": [{"user_id": customer.user_id} for customer in customers], "k": _NUM_SHOWN}
    start = time.perf_counter()
    answers = _ask(url, asked)["predictions"]
    took_ms = (time.perf_counter() - start) * 1000
    table = Table("customer", "bought lately", "recommended", show_lines=True)
    for customer, answer in zip(customers, answers, strict=True):
        bought = (
            "\n".join(_title(titles, item) for item in customer.bought[:_NUM_SHOWN])
            or "[dim]nothing: unknown to the shop[/]"
        )
        known = set(customer.bought)
        lines = [
            f"{_title(titles, item)}{' [dim](again)[/]' if item in known else ''}" for item in answer["product_ids"]
        ]
        table.add_row(customer.user_id, bought, "\n".join(lines))
    console.print(table)
    console.print(f"[dim]Three customers in one request, answered in {took_ms:.0f} ms.[/]", highlight=False)


def _title(titles: dict[str, str], item: str) -> str:
    return titles.get(item, item).title()


def _pick_customers(users: pa.Table) -> list[_Customer]:
    """The customer with the most products, and one who bought lately with a middling history."""
    by_number = users.sort_by([("num_products", "descending"), ("user_id", "ascending")])
    middling = users.filter(pc.and_(pc.greater_equal(users["num_products"], 15), pc.less(users["num_products"], 60)))
    by_recency = middling.sort_by([("days_since_last_purchase", "ascending"), ("user_id", "ascending")])
    rows = [*by_number.slice(0, 1).to_pylist(), *by_recency.slice(0, 1).to_pylist()]
    return [_Customer(row["user_id"], row["user_history"][::-1]) for row in rows]


@contextmanager
def _server(release: Path, *, keep: bool) -> Iterator[tuple[str, int]]:
    """A server process on a free port; stopped at the end unless it is to be kept."""
    command = [sys.executable, "-m", "endcap", "serve", str(release), "--port", "0"]
    log = (release.parents[2] / "05_serving" / "server.log").open("ab")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=keep)  # noqa: S603
    try:
        url = _wait_until_ready(process, Path(log.name))
        yield url, process.pid
    except BaseException:
        keep = False
        raise
    finally:
        log.close()
        if not keep:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
        if process.stdout is not None:
            process.stdout.close()


def _wait_until_ready(process: subprocess.Popen[str], log: Path) -> str:
    """The server's address, from the line that it prints once it answers."""
    assert process.stdout is not None  # noqa: S101 - it was asked for
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        line = process.stdout.readline()
        if not line:
            break
        if "http://" in line:
            return line[line.index("http://") :].strip()
    process.terminate()
    raise EndcapError(f"The server did not start within {_START_TIMEOUT_S} s; what it said is in {log}.")


def _ask(url: str, body: dict[str, object]) -> dict[str, list[dict[str, list[str]]]]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request("POST", "/v1/models/recommender:predict", json.dumps(body))
        response = connection.getresponse()
        answer: dict[str, list[dict[str, list[str]]]] = json.loads(response.read())
        if response.status != http.client.OK:
            raise EndcapError(f"The server answered {response.status}: {answer}")
        return answer
    finally:
        connection.close()


def _show_ending(console: Console, workspace: Workspace, result: TrainResult, url: str, pid: int | None) -> None:
    release = os.path.relpath(result.release.path)
    console.rule("[bold]Where everything is[/]", align="left")
    console.print(f"Report     {os.path.relpath(result.report)}", soft_wrap=True, highlight=False)
    console.print(f"Workspace  {os.path.relpath(workspace.path)}", soft_wrap=True, highlight=False)
    command = shlex.join([_program(), "serve", release])
    if pid is not None:
        console.print(
            f"Serving at {url} (process {pid}; stop it with: kill {pid}). Ask it:", soft_wrap=True, highlight=False
        )
    else:
        console.print(f"Serve it   {command}", soft_wrap=True, highlight=False)
        console.print("and ask:", highlight=False)
        url = "http://127.0.0.1:8501"
    body = json.dumps({"instances": [{"user_id": _UNKNOWN, "user_history": ["22423"]}], "k": 5})
    console.print(
        f"  curl -d '{body}' {url}/v1/models/recommender:predict", soft_wrap=True, highlight=False, markup=False
    )


def _program() -> str:
    """How the user can call `endcap` from here."""
    beside = Path(sys.executable).parent / "endcap"
    return os.path.relpath(beside) if beside.is_file() else "endcap"
