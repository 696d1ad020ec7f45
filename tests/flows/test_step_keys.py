"""The key of a step names every module that it computes with: a change of any of them makes its dates anew."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from endcap.flows import feature_steps
from endcap.flows.feature_steps import DAILY_CODE, WINDOWS_CODE
from endcap.ingest import build, derived

COMPUTES = ("endcap.features", "endcap.contracts", "endcap.ingest", "endcap.engines", "endcap.flows.contents")
EXEMPT = {
    "endcap.contracts.columns": "names of columns, of which those read and made are part of the keys",
    "endcap.contracts.errors": "says things, computes nothing",
    "endcap.features.spine_leaks": "refuses what is made, makes nothing",
    "endcap.engines.duckdb": "opens connections and scans tables by their contract",
    "endcap.ingest.landing": "cuts dates into groups and scans tables",
    "endcap.ingest.sources.protocol": "types of columns on the way to landed rows",
}


def imported(name: str) -> set[str]:
    """Modules of the project that a module imports, at its top or inside its functions."""
    tree = ast.parse(Path(str(sys.modules[name].__file__)).read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("endcap"):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {module for module in inner if _is_module(module)}
            found |= modules | ({node.module} if modules != inner else set())
    return {module for module in found if module.startswith("endcap")}


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def missing(code: Sequence[str], roots: Sequence[str]) -> set[str]:
    """What is reached from `roots` by imports among what computes, and not in `code`."""
    pending, reached = list(roots), set()
    while pending:
        name = pending.pop()
        if name not in reached and name not in EXEMPT and name.startswith(COMPUTES):
            reached.add(name)
            pending += imported(name)
    return reached - set(code)


@pytest.mark.parametrize(
    ("code", "root"),
    [
        (DAILY_CODE, "endcap.features.daily"),
        (WINDOWS_CODE, "endcap.features.windows"),
        (build.CODE, "endcap.ingest.build"),
        (derived.CODE, "endcap.ingest.derived"),
    ],
)
def test_a_key_names_all_that_its_step_computes_with(code: tuple[str, ...], root: str) -> None:
    assert missing(code, [root]) == set()
    # And would not pass with any of what the root imports left out.
    for name in imported(root) & set(code):
        assert missing([other for other in code if other != name], [root]) == {name}


def test_the_keys_of_features_name_all_that_their_module_computes_with() -> None:
    assert missing({*DAILY_CODE, *WINDOWS_CODE, feature_steps.__name__}, imported(feature_steps.__name__)) == set()
    assert "endcap.flows.contents" in set(DAILY_CODE) & set(WINDOWS_CODE)
