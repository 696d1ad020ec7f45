"""Terraform's files, read by python-hcl2: names resolve, roles are the least there can be, nothing gets in.

Where the machine has Terraform itself, it checks their form too; its providers' own check needs the network.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import hcl2

from tests.deploy.dockerfile import ROOT

FOLDER = ROOT / "deploy" / "terraform"
FILES = sorted(FOLDER.glob("*.tf"))
_REFERENCE = re.compile(r"(?<![\w.\"/-])((?:data\.)?google_\w+|var|local)\.([a-zA-Z_]\w*)")


def bare(value: Any) -> Any:
    """What python-hcl2 read, without the quotes that it keeps around names and texts."""
    if isinstance(value, dict):
        return {bare(name): bare(one) for name, one in value.items() if not name.startswith("__")}
    if isinstance(value, list):
        return [bare(one) for one in value]
    if isinstance(value, str):
        return re.sub(r'^"(.*)"$', r"\1", value, flags=re.DOTALL)
    return value


@cache
def contents() -> list[dict[str, Any]]:
    """Every file's blocks by kind; reading them takes a second."""
    return [bare(hcl2.loads(path.read_text(encoding="utf-8"))) for path in FILES]


def blocks(kind: str) -> Iterator[dict[str, Any]]:
    for content in contents():
        yield from content.get(kind, [])


def resources(kind: str | None = None) -> dict[str, dict[str, Any]]:
    """Every resource, or those of a type, by address."""
    return {
        f"{type_name}.{name}": body
        for block in blocks("resource")
        for type_name, named in block.items()
        for name, body in named.items()
        if kind in (None, type_name)
    }


def granted(body: dict[str, Any]) -> list[str]:
    """The roles that one resource gives."""
    return re.findall(r"roles/[\w.]+", str([body.get("role"), body.get("for_each")]))


def declared() -> set[str]:
    names = {f"var.{name}" for block in blocks("variable") for name in block}
    names |= {f"local.{name}" for block in blocks("locals") for name in block}
    names |= {f"data.{kind}.{name}" for block in blocks("data") for kind, named in block.items() for name in named}
    return names | resources().keys()


def test_every_name_is_declared_and_every_variable_used() -> None:
    text = "\n".join(re.sub(r"#.*", "", path.read_text(encoding="utf-8")) for path in FILES)
    used = {f"{kind}.{name}" for kind, name in _REFERENCE.findall(text)}
    assert len(used) > 30
    assert used - declared() == set()
    assert {name for name in declared() if name.startswith(("var.", "local."))} - used == set()


def test_variables_and_outputs_say_what_they_are() -> None:
    named = [one for kind in ("variable", "output") for block in blocks(kind) for one in block.items()]
    assert len(named) > 8
    assert [name for name, body in named if not str(body.get("description", "")).endswith(".")] == []


def test_the_training_account_has_these_roles_alone() -> None:
    found = {
        address: sorted(granted(body))
        for address, body in resources().items()
        if "google_service_account.train.member" in str(body.get("member"))
    }
    assert found == {
        "google_project_iam_member.train": [
            "roles/aiplatform.user", "roles/bigquery.jobUser", "roles/logging.logWriter",
        ],
        "google_bigquery_dataset_iam_member.train_reads": ["roles/bigquery.dataViewer"],
        "google_storage_bucket_iam_member.train_artifacts": ["roles/storage.objectAdmin"],
        "google_secret_manager_secret_iam_member.train_wandb": ["roles/secretmanager.secretAccessor"],
        "google_artifact_registry_repository_iam_member.train_pull": ["roles/artifactregistry.reader"],
    }  # fmt: skip


def test_no_account_owns_or_edits_the_project() -> None:
    roles = {role for body in resources().values() for role in granted(body)}
    assert "roles/artifactregistry.writer" in roles
    assert [role for role in roles if role in ("roles/owner", "roles/editor") or role.endswith(".admin")] == []


def test_the_bucket_is_closed_and_everything_is_in_one_region() -> None:
    bucket = resources("google_storage_bucket")["google_storage_bucket.artifacts"]
    assert (bucket["public_access_prevention"], bucket["uniform_bucket_level_access"]) == ("enforced", True)
    places = {
        address: body["location"]
        for address, body in resources().items()
        if "location" in body and "iam" not in address
    }
    assert len(places) >= 4
    assert set(places.values()) == {"${var.region}"}


def test_nothing_gets_in_and_only_the_apis_can_be_reached() -> None:
    rules = resources("google_compute_firewall")
    denied = {body["direction"] for body in rules.values() if "deny" in body and body["priority"] == 65000}
    assert denied == {"INGRESS", "EGRESS"}
    outside = [
        body["destination_ranges"]
        for body in rules.values()
        if "allow" in body and body["direction"] == "EGRESS" and "local.peered_range" not in str(body)
    ]
    assert outside == [["199.36.153.4/30"]]
    entering = [body for body in rules.values() if "allow" in body and body["direction"] == "INGRESS"]
    assert [re.findall(r"\d+\.\d+\.\d+\.\d+", str(body["source_ranges"])) for body in entering] == [[]]


def test_the_log_tables_have_the_columns_of_the_contract() -> None:
    found = {
        address.rpartition(".")[2]: re.findall(r"name['\"]?\s*[:=]\s*\\?['\"]+(\w+)", str(body["schema"]))
        for address, body in resources("google_bigquery_table").items()
    }
    assert found == {
        "requests": [
            "request_id", "user_key", "request_time", "release_digest", "surface", "item_ids", "scores", "positions",
            "propensities", "experiment", "variant",
        ],
        "feedback": ["request_id", "item_id", "event_type", "event_time", "value"],
        "drift": ["hour", "feature", "statistic", "value", "reference_version", "count"],
    }  # fmt: skip


def test_no_secret_has_a_value_here() -> None:
    assert resources("google_secret_manager_secret") != {}
    assert resources("google_secret_manager_secret_version") == {}


def test_a_push_to_main_builds_with_what_the_build_declares() -> None:
    trigger = resources("google_cloudbuild_trigger")["google_cloudbuild_trigger.train"]
    assert "^main$" in str(trigger["repository_event_config"])
    text = (ROOT / trigger["filename"]).read_text(encoding="utf-8")
    assert [name for name in trigger["substitutions"] if f"\n  {name}: " not in text] == []


def test_the_form_is_terraforms() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert text.endswith("}\n")
        assert "\t" not in text
    if (terraform := shutil.which("terraform")) is not None:
        done = subprocess.run([terraform, "fmt", "-check", "-diff", FOLDER], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "")
