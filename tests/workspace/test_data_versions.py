"""Versions of data that DVC itself added and pushed to a local remote, pulled, and known again in later manifests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from endcap.cli.app import app
from endcap.contracts.errors import ArtifactError, InputError
from endcap.workspace.data_versions import pull
from endcap.workspace.layout import Workspace
from endcap.workspace.locations import Location
from endcap.workspace.manifests import Run, describe_input, read_manifest
from tests.object_stores import ObjectStore

TABLE = b"user_id,item_id\r\nann,1\r\n"
PARTS = {"interactions.parquet": b"PAR1 one", "more/items.parquet": b"PAR1 two", "again/copy.parquet": b"PAR1 two"}

# One process: each call of DVC's command costs more than a second to start.
_BY_DVC = """
import sys
from dvc.repo import Repo

repo = Repo.init(no_scm=True)
with repo.config.edit() as settings:
    settings["core"] |= {"remote": "store", "analytics": False}
    settings["remote"]["store"] = {"url": "../remote"}
repo = Repo()
repo.add(["events.csv"])
repo.add(["raw/parts"])
repo.push()
"""
_STATUS = (
    "from dvc.repo import Repo; repo = Repo(); repo.fetch(); print(repo.status())"  # by what it has itself fetched
)


def by_dvc(script: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a repository of DVC's, without Git, and the remote that it pushed to; not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("versioned")
    repository = folder / "data"
    for name, content in {"events.csv": TABLE, **{f"raw/parts/{name}": one for name, one in PARTS.items()}}.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_bytes(content)
    by_dvc(_BY_DVC, repository)
    return folder


@pytest.fixture
def cloned(pushed: Path, tmp_path: Path) -> Path:
    """The repository as a clone has it: `.dvc` files and configuration, no data and no cache. The remote stands beside it."""
    repository = tmp_path / "data"
    shutil.copytree(pushed / "remote", tmp_path / "remote")
    shutil.copytree(pushed / "data", repository, ignore=shutil.ignore_patterns("cache", "tmp"))
    (repository / "events.csv").unlink()
    shutil.rmtree(repository / "raw" / "parts")
    return repository


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.init(tmp_path / "shop")


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(repository: Path, content: bytes) -> Path:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return repository.parent / "remote" / "files" / "md5" / digest[:2] / digest[2:]


def test_dvc_finds_what_was_pulled_to_be_its_own(cloned: Path) -> None:
    pulled = pull([str(cloned / "events.csv.dvc"), str(cloned / "raw" / "parts.dvc")])
    assert (len(pulled.files), pulled.num_fetched) == (4, 4)
    assert (cloned / "events.csv").read_bytes() == TABLE
    assert files_below(cloned / "raw" / "parts") == PARTS
    assert by_dvc(_STATUS, cloned) == "{}\n"


def test_a_second_pull_fetches_nothing_and_mends_what_is_gone(cloned: Path) -> None:
    target = str(cloned / "raw" / "parts.dvc")
    assert pull([target]).num_fetched == 3
    (cloned / "raw" / "parts" / "more" / "items.parquet").unlink()
    assert [pull([target]).num_fetched for _ in range(2)] == [1, 0]


def test_a_folder_goes_straight_into_the_one_that_is_named(cloned: Path, tmp_path: Path) -> None:
    to = tmp_path / "staging"
    pull([str(cloned / "raw" / "parts.dvc")], to=to)
    assert files_below(to) == PARTS


def test_a_lone_file_is_pulled_from_a_place(cloned: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone" / "events.csv.dvc"
    lone.parent.mkdir()
    shutil.move(cloned / "events.csv.dvc", lone)
    with pytest.raises(InputError, match="--remote"):
        pull([str(lone)])
    pulled = pull([str(lone)], remote=str(tmp_path / "remote"))
    assert pulled.data_version == f"md5:{hashlib.md5(TABLE, usedforsecurity=False).hexdigest()}"


def test_later_runs_know_the_version_of_what_they_read(cloned: Path, workspace: Workspace, tmp_path: Path) -> None:
    pulled = pull([str(cloned / "events.csv.dvc")], workspace)
    copied = shutil.copy(cloned / "events.csv", tmp_path / "elsewhere.csv")
    other = tmp_path / "other.csv"
    other.write_bytes(b"something else")
    run = Run(workspace, "ingest")
    run.finish(inputs=[describe_input(copied), describe_input(other)])
    assert [file.data_version for file in read_manifest(workspace, run.run_id).inputs] == [pulled.data_version, ""]


def test_without_scm_git_is_not_asked(cloned: Path, workspace: Workspace) -> None:
    def revision() -> str:
        pull([str(cloned / "events.csv.dvc")], workspace)
        last = max(path.name for path in workspace.runs.iterdir())
        (sha,) = read_manifest(workspace, last).configuration["git_shas"]
        shutil.rmtree(workspace.runs / last)
        return str(sha)

    git = ["git", "-c", "user.name=ann", "-c", "user.email=ann@example.org"]
    for command in (["init", "-q"], ["add", "events.csv.dvc"], ["commit", "-qm", "A version"]):
        subprocess.run([*git, *command], cwd=cloned, check=True)
    assert revision() == ""
    config = cloned / ".dvc" / "config"
    config.write_text(config.read_text(encoding="utf-8").replace("no_scm = True", "no_scm = False"), encoding="utf-8")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=cloned, check=True, capture_output=True, text=True).stdout
    assert revision() == head.strip()


def test_the_users_own_configuration_comes_first(cloned: Path) -> None:
    (cloned.parent / "remote").rename(cloned.parent / "moved")
    (cloned / ".dvc" / "config.local").write_text("['remote \"store\"']\n    url = ../../moved\n", encoding="utf-8")
    assert pull([str(cloned / "events.csv.dvc")]).num_fetched == 1


def test_files_of_dvc_2_are_read(tmp_path: Path) -> None:
    plain = hashlib.md5(TABLE.replace(b"\r\n", b"\n"), usedforsecurity=False).hexdigest()
    kept = tmp_path / "remote" / plain[:2] / plain[2:]
    kept.parent.mkdir(parents=True)
    kept.write_bytes(TABLE)
    (tmp_path / "events.csv.dvc").write_text(f"outs:\n- md5: {plain}\n  path: events.csv\n", encoding="utf-8")
    pull([str(tmp_path / "events.csv.dvc")], remote=str(tmp_path / "remote"))
    assert (tmp_path / "events.csv").read_bytes() == TABLE


@pytest.mark.parametrize("store", ["gcs", "s3"])
def test_a_remote_in_a_bucket_is_read_though_requests_fail(
    store: str, request: pytest.FixtureRequest, cloned: Path, workspace: Workspace, tmp_path: Path
) -> None:
    bucket: Location = request.getfixturevalue(f"{store}_location")
    server: ObjectStore = request.getfixturevalue(f"{store}_server")
    for name, content in files_below(cloned.parent / "remote").items():
        (bucket / "dvc" / name).write_bytes(content)
    shutil.rmtree(cloned.parent / "remote")
    endpoint = f"endpointurl = {os.environ['AWS_ENDPOINT_URL']}" if store == "s3" else ""
    (cloned / ".dvc" / "config.local").write_text(
        f"['remote \"store\"']\n    url = {bucket}/dvc\n    {endpoint}\n", encoding="utf-8"
    )
    for kind in ("503", "cut"):
        server.rules.inject(kind, "^GET")
    pulled = pull([str(cloned / "events.csv.dvc"), str(cloned / "raw" / "parts.dvc")], workspace)
    assert len(server.rules.injected) == 2
    assert (pulled.num_fetched, (cloned / "events.csv").read_bytes()) == (4, TABLE)
    assert files_below(cloned / "raw" / "parts") == PARTS
    # A .dvc file may lie in a bucket too, and what DVC never pushed there is told.
    (bucket / "versions" / "parts.dvc").upload_file(cloned / "raw" / "parts.dvc")
    pull([f"{bucket}/versions/parts.dvc"], to=tmp_path / "staging", remote=f"{bucket}/dvc")
    assert files_below(tmp_path / "staging") == PARTS
    kept = bucket / "dvc" / stored(cloned, TABLE).relative_to(cloned.parent / "remote").as_posix()
    kept.delete()
    (cloned / "events.csv").unlink()
    with pytest.raises(ArtifactError, match=f"The remote has no {kept}.*dvc push"):
        pull([str(cloned / "events.csv.dvc")])


def test_what_differs_is_kept_unless_forced(cloned: Path) -> None:
    target, own = str(cloned / "raw" / "parts.dvc"), cloned / "raw" / "parts" / "mine.parquet"
    own.parent.mkdir()
    own.write_bytes(b"mine")
    (own.parent / "interactions.parquet").write_bytes(b"altered")
    with pytest.raises(InputError, match=r"mine\.parquet and 1 more .* --force"):
        pull([target])
    assert files_below(own.parent) == {"mine.parquet": b"mine", "interactions.parquet": b"altered"}
    pull([target], force=True)
    assert files_below(own.parent) == PARTS


def test_damaged_data_are_not_taken(cloned: Path) -> None:
    kept = stored(cloned, TABLE)
    kept.chmod(0o644)
    kept.write_bytes(TABLE[:-1] + b"?")
    with pytest.raises(ArtifactError, match="damaged"):
        pull([str(cloned / "events.csv.dvc")])
    assert [path.name for path in cloned.iterdir() if "events.csv" in path.name] == ["events.csv.dvc"]


def test_data_that_were_not_pushed_are_named(cloned: Path) -> None:
    stored(cloned, TABLE).unlink()
    with pytest.raises(ArtifactError, match="dvc push"):
        pull([str(cloned / "events.csv.dvc")])


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "a\\b", "C:/b", "", "."])
def test_a_listing_that_leads_out_of_its_folder_is_refused(cloned: Path, path: str) -> None:
    member = {"md5": hashlib.md5(TABLE, usedforsecurity=False).hexdigest(), "relpath": path}
    listing = json.dumps([member]).encode()
    digest = hashlib.md5(listing, usedforsecurity=False).hexdigest()
    place = stored(cloned, listing).with_name(f"{digest[2:]}.dir")
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(listing)
    (cloned / "bad.dvc").write_text(f"outs:\n- {{md5: {digest}.dir, hash: md5, path: bad}}\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match="below its folder"):
        pull([str(cloned / "bad.dvc")])


def _of(text: str) -> Callable[[Path], list[str]]:
    def write(cloned: Path) -> list[str]:
        (cloned / "given.dvc").write_text(text, encoding="utf-8")
        return [str(cloned / "given.dvc")]

    return write


MD5 = "0" * 32


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (lambda cloned: [str(cloned / "gone.dvc")], "There is no"),
        (_of("- not a mapping"), "is no .dvc file"),
        (_of("outs: [{path: a, etag: 1}]"), "has no md5"),
        (_of(f"outs: [{{md5: '{MD5}', path: a}}, {{md5: '{MD5}', path: b}}]"), "names 2 outputs"),
        (_of(f"outs: [{{md5: '{MD5}', path: ../../a}}]"), "outside of"),
        (_of(f"outs: [{{md5: '{MD5}', path: a, remote: other}}]"), "no remote 'other'; there are: store"),
    ],
)  # fmt: skip
def test_what_cannot_be_pulled_says_why(cloned: Path, targets: Callable[[Path], list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pull(targets(cloned))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("url = ssh://store/data", "expected a folder"),
        ("url = s3://store/data\n    version_aware = true", "version_aware"),
        ("url = s3://store/data\n    endpointurl = http://127.0.0.1:9", "AWS_ENDPOINT_URL"),
    ],
)
def test_a_remote_that_cannot_be_read_says_why(cloned: Path, settings: str, message: str) -> None:
    (cloned / ".dvc" / "config.local").write_text(f"['remote \"store\"']\n    {settings}\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        pull([str(cloned / "events.csv.dvc")])


def test_the_command_tells_the_version(cloned: Path, workspace: Workspace) -> None:
    arguments = [
        "data",
        "pull",
        str(cloned / "events.csv.dvc"),
        "--workspace",
        str(workspace.path),
        "--log-format",
        "json",
    ]
    result = CliRunner().invoke(app, arguments)
    said = json.loads(result.stdout)
    assert (said["event"], said["files"], said["fetched"]) == ("data pulled", 1, 1)
    assert said["data_version"] == f"md5:{hashlib.md5(TABLE, usedforsecurity=False).hexdigest()}"
