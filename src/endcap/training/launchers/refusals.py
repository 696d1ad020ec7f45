"""A submission in, what is wrong with it out, before any machine is rented."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from endcap.contracts.errors import InputError
from endcap.contracts.submission import L4, T4, MachineConfig, SubmissionConfig

REGIONS: Final[Mapping[str, frozenset[str]]] = {
    L4: frozenset({
        "asia-east1", "asia-northeast1", "asia-northeast3", "asia-south1", "asia-southeast1", "europe-west1", "europe-west2",
        "europe-west3", "europe-west4", "europe-west6", "me-central2", "northamerica-northeast2", "us-central1", "us-east1",
        "us-east4", "us-west1", "us-west4",
    }),
    T4: frozenset({
        "asia-east1", "asia-east2", "asia-northeast1", "asia-northeast3", "asia-south1", "asia-southeast1",
        "asia-southeast2", "australia-southeast1", "europe-central2", "europe-west1", "europe-west2", "europe-west3",
        "europe-west4", "me-west1", "northamerica-northeast1", "southamerica-east1", "us-central1", "us-east1", "us-east4",
        "us-west1", "us-west2", "us-west4",
    }),
}  # fmt: skip
"""Regions that offer an accelerator to training, in 2026. `accelerator_regions` of a submission adds to them."""

_NUM_L4: Final[Mapping[str, int]] = {
    "g2-standard-4": 1, "g2-standard-8": 1, "g2-standard-12": 1, "g2-standard-16": 1, "g2-standard-24": 2,
    "g2-standard-32": 1, "g2-standard-48": 4, "g2-standard-96": 8,
}  # fmt: skip
_NUMS_T4: Final = (1, 2, 4)
_WITH_GPU_ALONE: Final = re.compile(r"(g2|a2|a3|a4|a4x)-")
_NUM_SHOWN = 6


def problems_of(config: SubmissionConfig, asked: str = "") -> Iterator[str]:
    """Everything that is wrong and can be told without a network; `asked` is the device that the training asks for."""
    yield from _missing(config)
    yield from _wrong_machine(config.machine)
    yield from _wrong_region(config)
    if asked == "cuda" and config.machine.accelerator_type is None:
        yield (
            f"training.device=cuda asks for a GPU, and machine.machine_type {config.machine.machine_type} has none: take "
            "--machine l4 or --machine t4, or training.device=cpu"
        )


def refuse(problems: Sequence[str]) -> None:
    """Raise InputError with all problems, where there are any."""
    if problems:
        num = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise InputError(f"Nothing was submitted, {num}:\n" + "\n".join(f"  {text}." for text in problems))


def bucket_problem(bucket: str, found: str, regions: Sequence[str], region: str) -> str | None:
    """What is wrong with where a bucket lies: `found` as the store calls it, `regions` of a pair of regions."""
    if found.lower() == region or region in {name.lower() for name in regions}:
        return None
    also = f" (in {' and '.join(name.lower() for name in regions)})" if regions else ""
    return (
        f"gs://{bucket} lies in {found.lower()}{also}, and the job would run in {region}: expected a bucket in {region}. Make "
        f"one with `gcloud storage buckets create gs://NAME --location={region}`, or submit with --region where it lies"
    )


def _missing(config: SubmissionConfig) -> Iterator[str]:
    region, project = config.region or "us-central1", config.project or "my-project"
    if config.project is None:
        yield "project is missing: give --project, such as my-project, or set PROJECT_ID"
    if config.region is None:
        yield "region is missing: give --region, such as us-central1, or set REGION"
    if config.bucket is None:
        yield "bucket is missing: give --bucket, such as gs://my-bucket, or set ARTIFACT_BUCKET"
    if config.image_uri is None:
        image = f"{region}-docker.pkg.dev/{project}/endcap/endcap-train-cuda:latest"
        yield f"image_uri is missing: give --image, such as {image}"


def _wrong_machine(machine: MachineConfig) -> Iterator[str]:
    kind, accelerator, count = machine.machine_type, machine.accelerator_type, machine.accelerator_count
    if kind.startswith("g2-") and kind not in _NUM_L4:
        yield f"machine.machine_type is {kind}: expected one of {', '.join(_NUM_L4)}"
    elif kind.startswith("g2-") and (accelerator, count) != (L4, _NUM_L4[kind]):
        found = f"{count} {accelerator}" if accelerator else "none"
        yield f"machine has {found}, and a {kind} comes with {_NUM_L4[kind]} {L4}: set accelerator_type and accelerator_count so"
    elif _WITH_GPU_ALONE.match(kind) and accelerator is None:
        yield f"machine.accelerator_type is null, and a {kind} comes with GPUs: name them, or take n1-standard-8"
    if accelerator == L4 and not kind.startswith("g2-"):
        yield f"{L4} is part of g2 machines alone, and machine.machine_type is {kind}: expected g2-standard-8 or a larger one"
    if accelerator == T4 and not kind.startswith("n1-"):
        yield f"{T4} is added to n1 machines alone, and machine.machine_type is {kind}: expected n1-standard-8 or another n1"
    if accelerator == T4 and count not in _NUMS_T4:
        yield f"machine.accelerator_count is {count}: expected 1, 2 or 4 {T4}"


def _wrong_region(config: SubmissionConfig) -> Iterator[str]:
    accelerator, region = config.machine.accelerator_type, config.region
    if accelerator is None or region is None or region in config.accelerator_regions:
        return
    known = REGIONS.get(accelerator)
    if known is None:
        yield (
            f"It isn't known which regions offer {accelerator}: look at the service's list of locations, and name those "
            f"regions in accelerator_regions, such as [{region}]"
        )
    elif region not in known:
        continent = region.partition("-")[0]
        near = sorted(known, key=lambda name: (not name.startswith(f"{continent}-"), name))[:_NUM_SHOWN]
        yield (
            f"{region} offers no {accelerator} to training: expected one of {', '.join(near)}{', …' * (len(known) > _NUM_SHOWN)}. "
            f"Take one of them with a bucket there, another --machine, or, if you know better, accelerator_regions: [{region}]"
        )
