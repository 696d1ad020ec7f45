"""A whole training job on an emulated bucket that fails now and then: `python -m benchmarks.performance.job_faults`.

Runs `python -m train.main` as a container does, once with every request answered and once with faults injected, and prints
what either wrote, how long it took and how many requests of what kind failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.report import Report
from endcap.contracts.release import MANIFEST
from endcap.workspace.locations import Location
from tests.job_services import job_environment, staged_interactions
from tests.object_stores import ObjectStore, emulated_gcs, listing

ROOT = Path(__file__).parents[2]
INVOICES = ROOT / "examples" / "online_retail" / "online_retail.parquet"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark as told on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance.job_faults", description=__doc__)
    parser.add_argument("--staging", type=Path, help="interactions.parquet and items.parquet; by default the demo's")
    parser.add_argument("--days", type=int, default=120, help="of the demo's purchases, up to the last one")
    parser.add_argument("--share", type=float, default=0.2, help="of the requests that fail")
    parser.add_argument("--json", type=Path, help="also write machine and rows here")
    parser.add_argument("--quick", action="store_true", help="with faults alone")
    parser.add_argument("overrides", nargs="*", help="of the configuration; by default experiment=baseline")
    options = parser.parse_args(arguments)
    report = Report(
        "Jobs: a bucket that fails now and then", ("endcap", "google-cloud-storage", "gcp-storage-emulator")
    )
    with tempfile.TemporaryDirectory(prefix="endcap-bench-") as name, emulated_gcs() as store:
        os.environ["STORAGE_EMULATOR_HOST"] = store.proxy.url
        staging = options.staging or staged_demo(Path(name) / "staging", options.days)
        for share in (options.share,) if options.quick else (0.0, options.share):
            bucket = measure(report, store, staging, Path(name), share, options.overrides or ["experiment=baseline"])
        print(listing(bucket))
    report.print()
    if options.json is not None:
        report.write_json(options.json)


def measure(
    report: Report, store: ObjectStore, staging: Path, folder: Path, share: float, overrides: Sequence[str]
) -> Location:
    """One job whose requests to a bucket of its own fail by this share; gives the bucket."""
    name = f"acme-{share * 100:.0f}"
    store.make_bucket(name)
    bucket = Location.parse(f"gs://{name}")
    (bucket / "staging" / "interactions.parquet").upload_file(staging / "interactions.parquet")
    (bucket / "staging" / "items.parquet").upload_file(staging / "items.parquet")
    environment = job_environment(bucket)
    for table in ("requests", "feedback"):
        without_rows = folder / name / table / "day.parquet"
        without_rows.parent.mkdir(parents=True)
        pq.write_table(pa.table({"request_id": pa.array([], pa.string())}), without_rows)
        environment[f"{table.upper()}_TABLE"] = str(without_rows.parent)
    store.rules.reset()
    store.rules.chaos(share, seed=1)
    if share:  # what takes its time: an answer that breaks off into silence, and bytes that change on the way
        for kind in ("stall", "damaged answer"):
            store.rules.inject(kind, "alt=media")
    started = time.perf_counter()
    said = subprocess.run(
        [sys.executable, "-m", "train.main", *overrides, "--workspace", str(folder / name / "workspace")],
        env={**os.environ, **environment, "PYTHONPATH": f"{ROOT}/src", "NO_GCE_CHECK": "true"},
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    seconds, num_requests = time.perf_counter() - started, len(store.rules.seen)
    faults = store.rules.counts()
    store.rules.reset()
    check(bucket, said)
    report.add(
        "whole job", f"{share:.0%} of requests fail", f"{sum(1 for _ in bucket.list())} objects", exit_code=said.returncode,
        seconds=seconds, num_requests=num_requests, num_faults=sum(faults.values()),
    )  # fmt: skip
    for kind, number in faults.items():
        report.add("faults", kind, f"{share:.0%}", num_requests=number)
    return bucket


def check(bucket: Location, said: subprocess.CompletedProcess[str]) -> None:
    """What stands in the bucket is what its writer measured, the release what its manifest names; nothing is half there."""
    if said.returncode:
        raise SystemExit(f"The job ended with {said.returncode}:\n{said.stdout[-4000:]}")
    release = bucket / "models" / "train-one"
    manifest = json.loads((release / MANIFEST).read_bytes())
    found = {file.below(release): file.stat() for file in release.list() if file.name != MANIFEST}
    named = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    if {name: stat.sha256 for name, stat in found.items() if stat} != named:
        raise SystemExit("The release in the bucket is not the one that its manifest names.")
    checkpoints = bucket / "checkpoints" / "train-one"
    for stage in ("tune", "refit"):
        if (begun := (checkpoints / stage).names()) != ["finished"]:
            raise SystemExit(f"The checkpoints of {stage} in the bucket are {begun}; expected the finished one alone.")
    for file in bucket.list():
        file.read_bytes()


def staged_demo(folder: Path, num_days: int) -> Path:
    """The demo's purchases of its last days in the staging form."""
    lines = pq.read_table(INVOICES)
    is_purchase = pc.and_(
        pc.is_valid(lines["CustomerID"]), pc.and_(pc.greater(lines["Quantity"], 0), pc.greater(lines["UnitPrice"], 0))
    )
    first = pc.max(lines["InvoiceDate"]).as_py() - timedelta(days=num_days)
    lines = lines.filter(pc.and_(is_purchase, pc.greater_equal(lines["InvoiceDate"], first)))
    folder.mkdir(parents=True)
    interactions = staged_interactions(lines).append_column("country", lines["Country"])
    pq.write_table(interactions, folder / "interactions.parquet")
    items = lines.group_by("StockCode").aggregate([("Description", "min")])
    catalog = pa.table({"item_id": items["StockCode"], "title": items["Description_min"]})
    pq.write_table(catalog, folder / "items.parquet")
    return folder


if __name__ == "__main__":
    main()
