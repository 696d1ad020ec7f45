"""Submissions that no machine is rented for."""

import pytest
from pydantic import ValidationError

from endcap.contracts.errors import InputError
from endcap.contracts.submission import MACHINES, SubmissionConfig, label_of
from endcap.training.launchers.refusals import bucket_problem, problems_of, refuse

GIVEN = {"project": "acme-shop", "region": "us-central1", "bucket": "acme", "image_uri": "img.example/train:1"}


def told(asked="auto", **more):
    return list(problems_of(SubmissionConfig.model_validate({**GIVEN, **more}), asked))


def test_the_three_machines_pass():
    assert [told(machine=machine.model_dump()) for machine in MACHINES.values()] == [[], [], []]
    default = SubmissionConfig()
    assert (default.machine.machine_type, default.machine.accelerator_type, default.machine.accelerator_count) == (
        "g2-standard-8", "NVIDIA_L4", 1,
    )  # fmt: skip
    assert default.boot_disk_size_gb == 100


def test_a_region_without_the_accelerator_is_refused_and_others_are_named():
    (problem,) = told(region="europe-north1")
    assert problem.startswith("europe-north1 offers no NVIDIA_L4 to training: expected one of europe-west1, ")
    assert told(region="europe-north1", machine=MACHINES["cpu"].model_dump()) == []
    assert told(region="europe-north1", accelerator_regions=["europe-north1"]) == []
    (problem,) = told(machine={"machine_type": "a2-highgpu-1g", "accelerator_type": "NVIDIA_TESLA_A100"})
    assert "accelerator_regions, such as [us-central1]" in problem


def test_a_gpu_that_is_asked_for_and_not_there_is_refused():
    cpu = MACHINES["cpu"].model_dump()
    (problem,) = told("cuda", machine=cpu)
    assert problem.startswith("training.device=cuda asks for a GPU, and machine.machine_type n1-standard-8 has none")
    assert told("cuda") == told("auto", machine=cpu) == []


@pytest.mark.parametrize(
    ("machine", "part"),
    [
        ({"machine_type": "g2-standard-24"}, "a g2-standard-24 comes with 2 NVIDIA_L4"),
        ({"machine_type": "g2-standard-9"}, "expected one of g2-standard-4, "),
        ({"machine_type": "g2-standard-8", "accelerator_type": None, "accelerator_count": 0}, "machine has none"),
        ({"machine_type": "a2-highgpu-1g", "accelerator_type": None, "accelerator_count": 0}, "name them"),
        ({"machine_type": "n1-standard-8"}, "NVIDIA_L4 is part of g2 machines alone"),
        ({"machine_type": "n2-standard-8", "accelerator_type": "NVIDIA_TESLA_T4"}, "added to n1 machines alone"),
        ({"machine_type": "n1-standard-8", "accelerator_type": "NVIDIA_TESLA_T4", "accelerator_count": 3}, "1, 2 or 4"),
    ],
)
def test_machines_that_there_are_not(machine, part):
    (problem,) = told(machine=machine)
    assert part in problem


def test_all_problems_are_told_at_once():
    found = list(problems_of(SubmissionConfig(machine=MACHINES["cpu"]), "cuda"))
    assert [text.split()[0] for text in found] == ["project", "region", "bucket", "image_uri", "training.device=cuda"]
    with pytest.raises(InputError, match=r"Nothing was submitted, 5 problems:\n  project is missing"):
        refuse(found)
    refuse([])


def test_a_bucket_lies_in_the_region_or_is_refused():
    assert bucket_problem("acme", "US-CENTRAL1", (), "us-central1") is None
    assert bucket_problem("acme", "NAM4", ("US-CENTRAL1", "US-EAST1"), "us-east1") is None
    assert "lies in us, and the job would run in us-central1" in str(bucket_problem("acme", "US", (), "us-central1"))
    found = str(bucket_problem("acme", "EUR4", ("EUROPE-NORTH1", "EUROPE-WEST4"), "us-central1"))
    assert "lies in eur4 (in europe-north1 and europe-west4)" in found


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"boot_disk_size_gb": 99}, "greater than or equal to 100"),
        ({"labels": {"Team": "search"}}, "found the label Team=search"),
        ({"labels": {"team": "x" * 64}}, "at most 63"),
        ({"env": {"WANDB_API_KEY": "hunter2hunter2"}}, "WANDB_API_KEY: secret://wandb-api-key"),
        ({"strategy": "FLEX_START", "machine": MACHINES["t4"].model_dump()}, "FLEX_START"),
        ({"machine": {"accelerator_count": 0}}, "a type and 1 or more"),
        ({"region": "us-central1-a"}, "match pattern"),
        ({"timeout_minutes": 7 * 24 * 60 + 1}, "less than or equal"),
        ({"replicas": 2}, "Extra inputs"),
    ],
)
def test_settings_that_are_wrong(given, part):
    with pytest.raises(ValidationError, match=part.replace("(", r"\(")) as found:
        SubmissionConfig.model_validate(given)
    assert "hunter2" not in "".join(str(each["msg"]) for each in found.value.errors())


def test_a_secret_by_reference_passes():
    assert SubmissionConfig(env={"WANDB_API_KEY": "secret://wandb-api-key"}).env["WANDB_API_KEY"].startswith("secret")


def test_any_text_becomes_a_label():
    assert label_of("train-20261121T001640Z-5c9206") == "train-20261121t001640z-5c9206"
    assert label_of("Café/1" + "x" * 99) == "caf--1" + "x" * 57
