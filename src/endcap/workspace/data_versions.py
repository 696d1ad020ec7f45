"""A `.dvc` file in, the data of the version that it names on the local disk out, every file checked by its digest.

Reads what DVC writes, without DVC: the file itself, `.dvc/config` and `.dvc/config.local` of its repository, and a remote that
is a folder, `gs://` or `s3://`. Git is asked for the repository's revision alone, and not at all where `core.no_scm` is set.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec
import yaml

from endcap.contracts.errors import ArtifactError, InputError
from endcap.workspace.layout import Workspace
from endcap.workspace.locations import Location
from endcap.workspace.manifests import PULL, Run, describe_input, git_sha

_FOLDER: Final = ".dir"
_CHUNK_BYTES: Final = 1 << 20
_SCHEMES: Final = ("gs", "s3")


class _Output(msgspec.Struct, frozen=True):
    """One of `outs`; what else DVC writes there is passed over. `hash` is absent in files of DVC before 3."""

    path: str
    md5: str = ""
    hash: str = ""
    remote: str = ""


class _DvcFile(msgspec.Struct, frozen=True):
    outs: list[_Output]
    wdir: str = "."


class _Member(msgspec.Struct, frozen=True):
    """A file of a tracked folder."""

    md5: str
    relpath: str


@dataclass(frozen=True)
class _Repository:
    """Where a `.dvc` file comes from: the root of its repository, if it has one, and what is configured there."""

    root: Path | None
    settings: Mapping[str, Mapping[str, str]]

    @property
    def has_no_git(self) -> bool:
        """`core.no_scm`."""
        return self.settings.get("core", {}).get("no_scm", "").lower() in ("true", "yes", "1", "on")


@dataclass(frozen=True)
class _Wanted:
    """A file that the version consists of: where it goes, and which bytes."""

    path: Path
    md5: str
    stored: Location
    is_text_as_unix: bool
    """DVC before 3 took line ends of text as one character before it made the digest."""


@dataclass(frozen=True)
class Pulled:
    """Data on the local disk: the version's name (`md5:…`, several joined by `+`), its files, how many had to travel."""

    data_version: str
    files: Sequence[Path]
    num_fetched: int


def pull(
    targets: Sequence[str], workspace: Workspace | None = None, *, to: Path | None = None, remote: str | None = None,
    force: bool = False,
) -> Pulled:  # fmt: skip
    """Fetch the data that `.dvc` files name, and leave alone what is there already.

    Into a workspace goes a manifest with the digests, by which later runs know the version of what they read.

    Args:
        targets: `.dvc` files: paths, `gs://` or `s3://`.
        workspace: Remembers the version.
        to: Where the data go, the content of a tracked folder straight into it; by default beside their `.dvc` files.
        remote: A remote's name, or its place; by default as the `.dvc` file or its repository says.
        force: Replace what differs, and remove what the version doesn't have from a tracked folder.

    Raises:
        InputError: A file is no `.dvc` file, the remote isn't known, or files in the way differ.
        ArtifactError: The remote lacks the data, or they aren't what was pushed.
    """
    plans = [_plan(target, to, remote) for target in targets]
    wanted = [one for plan in plans for one in plan.files]
    _check_places(wanted)
    missing = [one for one in wanted if not _is_there(one)]
    _clear([plan.folder for plan in plans if plan.folder], wanted, missing, force)
    for one in missing:
        _fetch(one)
    names = [plan.data_version for plan in plans]
    pulled = Pulled("+".join(dict.fromkeys(names)), [one.path for one in wanted], len(missing))
    if workspace is not None:
        _remember(workspace, pulled, targets, [plan.git_sha for plan in plans])
    return pulled


@dataclass(frozen=True)
class _Plan:
    """What one `.dvc` file asks for; `folder` is the tracked folder, if it is one."""

    data_version: str
    files: list[_Wanted]
    folder: Path | None
    git_sha: str


def _plan(target: str, to: Path | None, remote: str | None) -> _Plan:
    file = Location.parse(target)
    dvc_file = _read(file)
    repository = _repository(file)
    if len(dvc_file.outs) != 1:
        raise InputError(f"{target} names {len(dvc_file.outs)} outputs; expected 1, as `dvc add` writes it.")
    output = dvc_file.outs[0]
    digest = output.md5.removesuffix(_FOLDER)
    if len(digest) != hashlib.md5(usedforsecurity=False).digest_size * 2 or not _is_hex(digest):
        raise InputError(
            f"{target} has no md5 of {output.path}, only what a store of its own keeps of versions. Pull it with DVC: "
            f"dvc pull {target}"
        )
    if to is None and file.is_remote:
        raise InputError(f"{target} lies in an object store: say where the data go, with --to FOLDER.")
    store = _remote(target, repository, remote or output.remote)
    kept = store / "files" / "md5" if output.hash else store
    place = to / _name(output.path) if to is not None else _beside(file.path, dvc_file.wdir, output.path, repository)
    stored = kept / digest[:2] / (digest[2:] + _FOLDER * output.md5.endswith(_FOLDER))
    revision = "" if file.is_remote or repository.has_no_git else git_sha(file.path.resolve().parent)
    if not output.md5.endswith(_FOLDER):
        return _Plan(f"md5:{digest}", [_Wanted(place, digest, stored, not output.hash)], None, revision)
    folder = to if to is not None else place
    files = [
        _Wanted(folder / _inside(member.relpath), member.md5, kept / member.md5[:2] / member.md5[2:], not output.hash)
        for member in _members(stored, digest)
    ]
    return _Plan(f"md5:{output.md5}", files, folder, revision)


def _read(file: Location) -> _DvcFile:
    if not file.exists():
        raise InputError(f"There is no {file}. Expected a .dvc file, as `dvc add` writes it.")
    try:
        return msgspec.convert(yaml.safe_load(file.read_bytes()), _DvcFile)
    except (yaml.YAMLError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"{file} is no .dvc file: {error}. Expected one as `dvc add` writes it.") from error


def _repository(file: Location) -> _Repository:
    if file.is_remote:
        return _Repository(None, {})
    for folder in file.path.resolve().parents:
        if (folder / ".dvc").is_dir():
            return _Repository(folder, _settings(folder / ".dvc"))
    return _Repository(None, {})


def _settings(folder: Path) -> dict[str, dict[str, str]]:
    """Sections of `config`, overlaid by those of `config.local`; a remote's is named `remote NAME`."""
    found: dict[str, dict[str, str]] = {}
    for path in (folder / "config", folder / "config.local"):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path} can't be read as DVC's configuration: {error}") from error
        for section in parser.sections():
            name = section.strip("'\"").replace('"', "")
            values = {key: value.strip("'\"") for key, value in parser[section].items()}
            found[name] = found.get(name, {}) | values
    return found


def _remote(target: str, repository: _Repository, named: str) -> Location:
    """The place of a remote: a configured one by its name, else `named` is the place itself."""
    name = named or repository.settings.get("core", {}).get("remote", "")
    if not name:
        raise InputError(
            f"No remote is known for {target}: its repository names none. Say it with --remote NAME or --remote PLACE (a "
            "folder, gs://… or s3://…)."
        )
    configured = repository.settings.get(f"remote {name}")
    if configured is None:
        known = sorted(one.removeprefix("remote ") for one in repository.settings if one.startswith("remote "))
        if "/" not in name and not Path(name).is_dir():
            raise InputError(f"{target} knows no remote {name!r}; there are: {', '.join(known) or 'none'}.")
        return Location.parse(name)
    unread = [key for key in ("version_aware", "worktree") if configured.get(key, "").lower() == "true"]
    endpoint = configured.get("endpointurl")
    if endpoint and os.environ.get("AWS_ENDPOINT_URL") != endpoint:
        raise InputError(f"The remote {name!r} is at {endpoint}: set AWS_ENDPOINT_URL={endpoint} in the environment.")
    url = configured.get("url", "")
    scheme, has_scheme, _ = url.partition("://")
    if unread or not url or (has_scheme and scheme not in _SCHEMES):
        found = f"is {unread[0]}" if unread else f"has the url {url!r}"
        raise InputError(
            f"The remote {name!r} {found}; expected a folder, gs://… or s3://… that keeps data by digest. Pull it with "
            f"DVC: dvc pull {target}"
        )
    if has_scheme or repository.root is None:
        return Location.parse(url)
    return Location.parse((repository.root / ".dvc" / url).resolve())


def _members(stored: Location, digest: str) -> list[_Member]:
    """The files of a tracked folder, as its listing in the remote has them."""
    content = _content(stored)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
        raise ArtifactError(
            f"{stored} is damaged: its digest isn't the one that it is kept under. Push the data again."
        )
    try:
        members = msgspec.json.decode(content, type=list[_Member])
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{stored} can't be read as the listing of a tracked folder: {error}") from error
    if wrong := [one for one in members if len(one.md5) != len(digest) or not _is_hex(one.md5)]:
        raise ArtifactError(f"{stored} lists {wrong[0].relpath} without a digest.")
    return members


def _content(stored: Location) -> bytes:
    if not stored.exists():
        raise _not_pushed(stored)
    return stored.read_bytes()


def _not_pushed(stored: Location) -> ArtifactError:
    return ArtifactError(f"The remote has no {stored}. Push the data from where they are: dvc push")


def _name(path: str) -> str:
    return _inside(PurePosixPath(path).name)


def _inside(path: str) -> str:
    """A path below a folder. Raises ArtifactError for one that leads out of it."""
    parts = path.split("/")
    if not path or "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts) or ":" in parts[0]:
        raise ArtifactError(f"Found the path {path!r} in a data version; expected one below its folder.")
    return path


def _beside(file: Path, wdir: str, path: str, repository: _Repository) -> Path:
    """Where an output belongs, in its repository."""
    place = (file.parent / wdir / path).resolve()
    root = repository.root or file.resolve().parent
    if root not in place.parents:
        raise InputError(f"{file} puts its data at {place}, outside of {root}. Say where they go, with --to FOLDER.")
    return place


def _check_places(wanted: Sequence[_Wanted]) -> None:
    seen: dict[Path, str] = {}
    for one in wanted:
        if seen.setdefault(one.path, one.md5) != one.md5:
            raise InputError(f"Two of the .dvc files put different data at {one.path}. Pull them to different folders.")


def _is_there(one: _Wanted) -> bool:
    return one.path.is_file() and one.md5 in _digests(one.path, one.is_text_as_unix)


def _digests(path: Path, is_text_as_unix: bool) -> Iterator[str]:
    """MD5 of the content; then, where DVC may have counted line ends so, of the content with plain ones."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    yield digest.hexdigest()
    if is_text_as_unix:
        plain = path.read_bytes().replace(b"\r\n", b"\n")
        yield hashlib.md5(plain, usedforsecurity=False).hexdigest()


def _clear(folders: Sequence[Path], wanted: Sequence[_Wanted], missing: Sequence[_Wanted], force: bool) -> None:
    """Make room: with `force` what differs goes, without it is an error."""
    places = {one.path for one in wanted}
    foreign = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path not in places]
    in_the_way = foreign + [one.path for one in missing if one.path.exists()]
    if not in_the_way:
        return
    if not force:
        others = f" and {len(in_the_way) - 1} more" if len(in_the_way) > 1 else ""
        raise InputError(
            f"{in_the_way[0]}{others} would be replaced or removed: it isn't what the version has. Move it away, or allow it "
            "with --force."
        )
    for path in foreign:
        path.unlink()
    for one in missing:
        if one.path.is_dir():
            shutil.rmtree(one.path)


def _fetch(one: _Wanted) -> None:
    if not one.stored.exists():
        raise _not_pushed(one.stored)
    one.path.parent.mkdir(parents=True, exist_ok=True)
    aside = one.path.with_name(f".{one.path.name}.{secrets.token_hex(4)}")
    try:
        one.stored.download_file(aside)
        if one.md5 not in _digests(aside, one.is_text_as_unix):
            raise ArtifactError(
                f"{one.stored} is damaged: its digest isn't the one that it is kept under. Push it again."
            )
        aside.replace(one.path)
    finally:
        aside.unlink(missing_ok=True)


def _remember(workspace: Workspace, pulled: Pulled, targets: Sequence[str], revisions: Sequence[str]) -> None:
    run = Run(workspace, PULL)
    described: dict[str, Any] = {
        "data_version": pulled.data_version,
        "dvc_files": list(targets),
        "git_shas": list(revisions),
    }
    run.finish(
        inputs=[describe_input(path) for path in pulled.files],
        configuration=described,
        metrics={"num_files": len(pulled.files), "num_fetched": pulled.num_fetched},
    )


def _is_hex(text: str) -> bool:
    return bool(text) and all(digit in "0123456789abcdef" for digit in text)
