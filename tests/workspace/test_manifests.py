from __future__ import annotations

import ast
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import endcap
from endcap.contracts.errors import ArtifactError, InputError
from endcap.workspace import manifests
from endcap.workspace.layout import Workspace

GIT = shutil.which("git") or "git"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run([GIT, "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.init(tmp_path / "shop")


def test_a_manifest_comes_back_as_written(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"abc")
    run = manifests.Run(workspace, "train")
    with run.stage("fit"):
        pass
    with run.stage("fit"):
        pass
    path = run.finish(
        inputs=[manifests.describe_input(tmp_path / "in.csv")],
        data_versions={"events": 3},
        configuration={"epochs": 2},
        metrics={"recall@10": 0.5, "num_rows": 7},
    )
    assert path == workspace.runs / run.run_id / "manifest.json"
    manifest = manifests.read_manifest(workspace, run.run_id)
    assert manifest.inputs == [
        manifests.InputFile(path=str(tmp_path / "in.csv"), sha256=hashlib.sha256(b"abc").hexdigest(), num_bytes=3)
    ]
    assert (manifest.step, manifest.data_versions, manifest.configuration) == ("train", {"events": 3}, {"epochs": 2})
    assert manifest.metrics == {"recall@10": 0.5, "num_rows": 7}
    assert list(manifest.timings_s) == ["fit"]
    assert manifest.started_at <= manifest.ended_at
    assert manifest.started_at.endswith("+00:00")
    assert {"python", "pyarrow", "deltalake"} <= manifest.library_versions.keys()


def test_a_failing_stage_is_measured_and_raises(workspace: Workspace) -> None:
    run = manifests.Run(workspace, "train")

    def fail() -> None:
        with run.stage("fit"):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert manifests.read_manifest(workspace, run.finish().parent.name).timings_s.keys() == {"fit"}


def test_nothing_is_on_disk_before_the_end(workspace: Workspace) -> None:
    manifests.Run(workspace, "train")
    assert not list(workspace.runs.iterdir())


def test_run_ids_name_the_step_and_never_repeat() -> None:
    names = {manifests.new_run_id("train") for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"train-\d{8}T\d{6}Z-[0-9a-f]{6}", name) for name in names)


@pytest.mark.parametrize("name", ["none", "../shop", "..", ""])
def test_no_such_run(workspace: Workspace, name: str) -> None:
    with pytest.raises(InputError, match="There is no finished run"):
        manifests.read_manifest(workspace, name)


def test_a_damaged_manifest(workspace: Workspace) -> None:
    path = manifests.Run(workspace, "train").finish()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ArtifactError, match="can't be read as a run manifest"):
        manifests.read_manifest(workspace, path.parent.name)


def test_libraries_that_are_not_installed_are_left_out() -> None:
    assert manifests.library_versions(["no-such-library"]).keys() == {"python"}


def test_git_sha_of_tracked_code_alone(tmp_path: Path) -> None:
    assert manifests.git_sha(tmp_path) == "unknown"
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").touch()
    assert manifests.git_sha(tmp_path) == "unknown"
    git(tmp_path, "add", "code.py")
    assert manifests.git_sha(tmp_path) == "unknown"
    git(tmp_path, "commit", "-qm", "m")
    assert manifests.git_sha(tmp_path) == git(tmp_path, "rev-parse", "HEAD")
    installed = tmp_path / "venv"
    installed.mkdir()
    (installed / "copy.py").touch()
    assert manifests.git_sha(installed) == "unknown"


def test_git_sha_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert manifests.git_sha() == "unknown"


def test_git_sha_of_an_image_is_what_it_was_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ENDCAP_GIT_SHA", "abc123")
    assert manifests.git_sha() == "abc123"


def test_every_run_says_the_version_of_its_data() -> None:
    silent = []
    calls = 0
    for path in sorted(Path(endcap.__file__).parent.rglob("*.py")):
        if path.parent.name == "trackers":
            continue  # runs of outside systems
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("run.finish", "self._run.finish"):
                calls += 1
                if "dataset_version" not in {keyword.arg for keyword in node.keywords}:
                    silent.append(path.name)
    assert calls >= 9
    assert silent == ["data_versions.py"], "data kept elsewhere, which no dataset is made of yet, alone have none"
