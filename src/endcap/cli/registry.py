"""What `endcap releases` does."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from endcap.cli.reporting import reporter_for
from endcap.contracts.errors import InputError
from endcap.contracts.release import ReleaseManifest
from endcap.releases.ancestry import describe, release_path
from endcap.releases.bundle import open_release
from endcap.releases.mirror import Mirrored, mirror_for
from endcap.releases.registry import AliasMove, Registration, Registry
from endcap.workspace.layout import Workspace

_WIDE = 110
"""Columns of a terminal from which on more is listed."""


def list_releases(path: Path, *, as_json: bool) -> None:
    """Print releases: those that are here, and those that were registered and are gone."""
    from endcap.flows.train_run import list_releases as find_releases

    workspace = Workspace.open(path)
    registry = Registry.of(workspace)
    registered = {(one.name, one.version): one for one in registry.registrations()}
    rows: list[dict[str, Any]] = []
    for release in find_releases(workspace):
        manifest, version = release.manifest, int(release.path.name)
        found = registered.pop((manifest.name, version), None)
        rows.append(
            {
                "release": f"{manifest.name}/{version}",
                "verdict": manifest.blessing.status,
                "status": found.status if found else "not registered",
                "aliases": _aliases_at(registry, manifest.name, version),
                "model_type": _model_type(manifest),
                "ndcg@10": manifest.metrics.get("all_purchases/ndcg@10"),
                "recall@100": manifest.metrics.get("all_purchases/recall@100"),
                "rmse_own_units": manifest.metrics.get("rmse_own_units"),
                "made_at": manifest.created_at,
                "digest": release.digest,
            }
        )
    gone: list[dict[str, Any]] = [
        {"release": f"{one.name}/{one.version}", "status": "gone", "digest": one.digest} for one in registered.values()
    ]
    if as_json:
        _print_json([*rows, *gone])
        return
    console = Console()
    if not rows and not gone:
        console.print(f"{path} has no release yet. Make one with: endcap train --workspace {path}", soft_wrap=True)
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    is_wide = console.width >= _WIDE
    further = ("recall@100", "digest") if is_wide else ()
    for title in ("release", "verdict", "type", "on test", "made (UTC)", "aliases", *further):
        # A name is copied from here into the next command: it is never cut.
        table.add_column(title, no_wrap=title == "release", overflow="fold")
    for row in rows:
        made = row["made_at"][:16].replace("T", " ")
        told = [row["release"], row["verdict"], row["model_type"], _headline(row), made, " ".join(row["aliases"])]
        more = {"recall@100": _figure(row["recall@100"]), "digest": row["digest"][:12]}
        table.add_row(*told, *(more[title] for title in further))
    for row in gone:
        table.add_row(row["release"], "gone", *([*[""] * 5, row["digest"][:12]] if is_wide else []))
    console.print(table)


def show_release(path: Path, said: str, *, as_json: bool) -> None:
    """Print a release's lineage."""
    workspace = Workspace.open(path)
    registry = Registry.of(workspace)
    described = describe(workspace, registry, _registration(workspace, registry, said))
    if as_json:
        _print_json(described)
        return
    console = Console()
    run, features = described["run"], described["features"]
    lines = [
        ("release", f"{described['release']}  {described['status']}  {' '.join(described['aliases'])}".rstrip()),
        ("digest", described["digest"]),
        ("registered", f"{described['registered_at'][:19]} UTC" + ("" if described["is_here"] else ", folder is gone")),
        ("run", f"{run['run_id']}  seed {run['seed']}  git {run['git_sha'][:12]}"),
        ("features", "the run's folder is gone" if features is None else _feature_line(features)),
        ("data", ", ".join(f"{name} {version}" for name, version in described["data_versions"].items())),
        ("dataset version", f"{described['dataset_version'] or 'unknown'}"),
        *(("data version", one["data_version"]) for one in described["sources"] or [] if one["data_version"]),
        *described["labels"].items(),
    ]
    for name, value in lines:
        console.print(f"{name:<28}{value}", soft_wrap=True, highlight=False, markup=False)


def move_alias(
    path: Path, said: str, alias: str, *, reason: str, expect: int | None, remove: bool, as_json: bool
) -> None:
    """Move an alias, tell the mirror, and say where it stands."""
    workspace = Workspace.open(path)
    registry = Registry.of(workspace)
    name, version, uri = said.partition("/")[0], None, None
    if not remove:
        registration = _registration(workspace, registry, said)
        name, version = registration.name, registration.version
        uri = registration.lineage.configuration.get("release", {}).get("mlflow_uri")
    elif (current := registry.alias(name, alias)) and current.version is not None:
        found = registry.find(name, current.version)
        uri = found.lineage.configuration.get("release", {}).get("mlflow_uri") if found else None
    move = registry.move_alias(name, alias, version, moved_by=_who(), reason=reason, expected_generation=expect)
    console = Console(stderr=as_json)
    Mirrored(mirror_for(uri), reporter_for("text", console)).move_alias(move)
    if as_json:
        _print_json(move)
    else:
        console.print(_sentence(move), soft_wrap=True, highlight=False)


def show_history(path: Path, name: str, alias: str | None, *, as_json: bool) -> None:
    """Print every move of the aliases."""
    moves = Registry.of(Workspace.open(path)).history(name, alias)
    if as_json:
        _print_json(moves)
        return
    console = Console()
    if not moves:
        console.print(f"No alias of {name} was ever set. Set one with: endcap releases alias {name}/1 champion")
        return
    table = Table("when (UTC)", "alias", "generation", "from", "to", "who", "why")
    for move in moves:
        table.add_row(
            move.moved_at[:19].replace("T", " "), move.alias, str(move.generation), _shown(move.previous_version),
            _shown(move.version), move.moved_by, move.reason,
        )  # fmt: skip
    console.print(table)


def register_release(path: Path, folder: Path, *, as_json: bool) -> None:
    """Register a release that lies below the workspace's releases."""
    workspace = Workspace.open(path)
    release = open_release(folder)
    name = release.manifest.name
    expected = workspace.releases / name / release.path.name
    if expected.resolve() != release.path.resolve():
        raise InputError(f"{folder} is not where releases of {name} lie: copy it to {expected}, then register that.")
    registration = Registry.of(workspace).register(release)
    if as_json:
        _print_json(registration)
    else:
        Console().print(f"{registration.name}/{registration.version} is registered: {registration.status}.")


def _registration(workspace: Workspace, registry: Registry, said: str) -> Registration:
    name, separator, version = said.partition("/")
    if "@" in said:
        name, _, alias = said.partition("@")
        move = registry.alias(name, alias)
        if move is None or move.version is None:
            raise InputError(f"{alias} of {name} names no release; see: endcap releases history {name}")
        separator, version = "/", str(move.version)
    if not separator or not version.isdigit():
        raise InputError(f"Found {said!r}; expected NAME/VERSION, such as recommender/1, or NAME@ALIAS.")
    if found := registry.find(name, int(version)):
        return found
    where = release_path(workspace, name, int(version))
    hint = f"Register it: endcap releases register {where}" if where.is_dir() else "See: endcap releases list"
    raise InputError(f"{said} is not registered. {hint}")


def _aliases_at(registry: Registry, name: str, version: int) -> list[str]:
    return [alias for alias, move in registry.aliases(name).items() if move.version == version]


def _feature_line(features: list[dict[str, Any]]) -> str:
    folders = sorted({feature["folder"] for feature in features})
    return f"{len(features)} files of {', '.join(folders) or 'no folder'}"


def _sentence(move: AliasMove) -> str:
    where = f"{move.name}/{move.version}" if move.version is not None else "nothing"
    before = f"{move.name}/{move.previous_version}" if move.previous_version is not None else "nothing"
    return f"{move.alias} names {where}, generation {move.generation}; before: {before}."


def _model_type(manifest: ReleaseManifest) -> str:
    if manifest.ranking is None:
        return "retrieval"
    return "ranking" if manifest.retrieval is None else "multitask"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _headline(row: dict[str, Any]) -> str:
    """What a release is judged by first: how it ranks, or else how far it is off."""
    shown = (("ndcg@10", "ndcg@10"), ("rmse", "rmse_own_units"))
    return next((f"{title} {row[name]:.4f}" for title, name in shown if row[name] is not None), "-")


def _shown(version: int | None) -> str:
    return "-" if version is None else str(version)


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def _print_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
