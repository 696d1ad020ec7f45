"""The checkout in, proof out that the house keeps its own rules: commands, lock, licence, safe loading, clean text."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import endcap

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"

TARGETS = [
    "setup",
    "demo",
    "test",
    "test-slow",
    "lint",
    "fix",
    "bench",
    "bench-peers",
    "clients",
    "docs",
    "lock",
    "help",
]

OLDEST_PYTHON = "3.11.2"  # Debian 12's

UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

TEXT_SUFFIXES = {
    "",
    ".cfg",
    ".html",
    ".ini",
    ".j2",
    ".json",
    ".lock",
    ".md",
    ".py",
    ".sh",
    ".tf",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
}
FOREIGN = {
    "a package registry's host": re.compile(
        r"\b(?:(?:pypi|pythonhosted|npmjs|anaconda)\.(?:org|com)|download\.pytorch\.org|deb\.debian\.org)\b"
        r"|--(?:extra-)?index-url[ =]https?:"
        r"|--find-links[ =]/"
    ),
    "a path of somebody's machine": re.compile(
        r"(?<![\w.~})\]/-])(?:/(?:work|tmp|opt|root)/(?=\w)|/(?:home|Users)/[a-z]\w*/|[A-Z]:\\Users\\)"
    ),
}


def declared_requirements() -> Iterator[tuple[str, Requirement]]:
    """Each requirement of pyproject.toml with the name of its group; `endcap` itself is left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"core": project["dependencies"], **project["optional-dependencies"]}
    for group, lines in groups.items():
        for requirement in map(Requirement, lines):
            if requirement.name != "endcap":
                yield group, requirement


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lock_lines() -> list[str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def tracked_texts() -> Iterator[Path]:
    """Text files that are in git or would be, but not data."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for path in (ROOT / name for name in names if name):
        if path.suffix in TEXT_SUFFIXES and path.is_file():
            yield path


def foreign_names(text: str) -> list[str]:
    """What of this text belongs to one machine or one registry."""
    return [f"{what}: {match.group()}" for what, pattern in FOREIGN.items() for match in pattern.finditer(text)]


def unsafe_uses(source: str) -> list[str]:
    """What in this Python source can run code that hides in a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE_MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if (
                called in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
                or (called == "torch.load" and given.get("weights_only") != "True")
                or (called in {"np.load", "numpy.load"} and given.get("allow_pickle") != "False")
            ):
                found.append(called)
    return found


def test_make_lists_every_command_with_its_help() -> None:
    output = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    listed = dict(re.findall(r"^make (\S+) +(\S.+)$", output, flags=re.MULTILINE))
    assert sorted(listed) == sorted(TARGETS)


def test_ci_runs_lint_and_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"^exec make lint test\b", script.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize(
    "script",
    [*sorted((ROOT / "scripts").glob("*.sh")), *sorted((ROOT / "deploy").glob("*.sh")), ROOT / ".ci" / "run"],
    ids=lambda p: p.name,
)
def test_shell_script_parses(script: Path) -> None:
    result = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_progress_shows_a_failed_command_and_stops() -> None:
    script = "set -euo pipefail; source scripts/progress.sh; step good echo quiet; step bad sh -c 'echo why; exit 3'; echo on"
    result = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 3
    assert result.stdout == "good ...\nbad ...\n"
    assert result.stderr.startswith("why\nFailed (exit code 3): bad.")


def test_missing_python_is_named_before_anything_is_installed() -> None:
    environment = {**os.environ, "PYTHON": "no-such-python"}
    command = ["scripts/system-packages.sh", "python"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "PYTHON=no-such-python" in result.stderr


@pytest.mark.parametrize(("group", "requirement"), [*declared_requirements()], ids=lambda value: str(value))
def test_lock_pins_what_pyproject_asks_for(group: str, requirement: Requirement) -> None:
    pins = dict(line.split("==") for line in lock_lines())
    pinned = pins.get(canonical(requirement.name))
    assert pinned is not None, f"{requirement.name} of [{group}] is not in requirements.lock: run `make lock`"
    assert requirement.specifier.contains(pinned, prereleases=True)


def test_build_generates_the_messages_with_the_pinned_tools() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    tools = [line for line in lock_lines() if line.startswith("grpcio-tools==")]
    assert len(tools) == 1
    assert tools[0] in build


def test_pinned_versions_allow_the_oldest_supported_python() -> None:
    pins = dict(line.split("==") for line in lock_lines())
    checked = [
        distribution
        for distribution in importlib.metadata.distributions()
        if pins.get(canonical(distribution.name)) == distribution.version.split("+")[0]
    ]
    assert len(checked) > 40
    refusing = [
        distribution.name
        for distribution in checked
        if not SpecifierSet(distribution.metadata.get("Requires-Python", "")).contains(OLDEST_PYTHON)
    ]
    assert refusing == []


def test_lock_holds_names_and_public_versions_alone() -> None:
    lines = lock_lines()
    names = [line.split("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []


@pytest.mark.parametrize(
    "text",
    ["https://" + ".".join(["files", "pythonhosted", "org"]), "cd " + "/".join(["", "tmp", "shop"])],
)
def test_foreign_names_are_recognized(text: str) -> None:
    assert len(foreign_names(text)) == 1


@pytest.mark.parametrize(
    "text", ["lim.tmp/x", "a/work/b", "https://example.org/work/x", "~/work/shop", "--index-url URL"]
)
def test_harmless_names_are_no_foreign_names(text: str) -> None:
    assert foreign_names(text) == []


def test_no_file_names_a_registry_or_a_machine() -> None:
    paths = [*tracked_texts()]
    assert len(paths) > 20
    found = {
        path.relative_to(ROOT).as_posix(): names
        for path in paths
        if (names := foreign_names(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import dill.source",
        "eval('1')",
        "yaml.load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_unsafe_uses_are_recognized(source: str) -> None:
    assert len(unsafe_uses(source)) == 1


@pytest.mark.parametrize(
    "source", ["torch.load(p, weights_only=True)", "np.load(p, allow_pickle=False)", "model.eval()"]
)
def test_safe_uses_are_let_through(source: str) -> None:
    assert unsafe_uses(source) == []


def test_source_loads_nothing_that_can_run_code() -> None:
    modules = sorted(SRC.rglob("*.py"))
    assert len(modules) > 10
    found = {str(path.relative_to(SRC)): uses for path in modules if (uses := unsafe_uses(path.read_text("utf-8")))}
    assert found == {}


def test_each_package_says_in_one_sentence_what_it_does() -> None:
    folders = {path.parent for path in (SRC / "endcap").rglob("*.py")}
    found = {}
    for folder in folders:
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        if not re.fullmatch(r"[A-Z][^\n]*[^.\n]\.", docstring) or ". " in docstring:
            found[str(folder.relative_to(SRC))] = docstring
    assert found == {}


def test_license_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert re.match(r"\s+Apache License\s+Version 2\.0, January 2004\s", text)
    assert "END OF TERMS AND CONDITIONS" in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0"


def test_changelog_opens_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## \[?(\d+\.\d+\.\d+)\b", text, flags=re.MULTILINE)
    assert first is not None
    assert first.group(1) == endcap.__version__


def test_contributing_names_paths_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:src|tests|docs|benchmarks|scripts|examples)/[a-z0-9_./-]+)`", text))
    assert len(named) > 5
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
