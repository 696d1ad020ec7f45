"""The source in, an error out for each use of os.path, open() or glob, and of a place that may be remote as a local path.

`MODEL_DIR`, `CHECKPOINT_DIR` and their like may be `gs://` or `s3://`: they are read by `Location.parse`, never by `Path`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"

MODULES = {"glob", "os.path", "posixpath", "ntpath", "genericpath"}
"""They take text for a path, and a location for a folder named `gs:`."""
PURE = {"os.path.relpath"}
"""Touches no file: how the command line shorts a local path for people."""
OPENERS = {"open", "io.open", "codecs.open"}
LOCAL = {"Path", "pathlib.Path", "PosixPath", "PurePath", "shutil.copy", "shutil.copytree", "shutil.move", "shutil.rmtree",
         "os.listdir", "os.makedirs", "os.mkdir", "os.remove", "os.rename", "os.replace", "os.scandir", "os.stat",
         "os.unlink", "os.walk"}  # fmt: skip
"""What makes a local path of its first argument, or takes it for one."""
PLACE = re.compile(
    r"\b(?:AIP_)?(?:MODEL|CHECKPOINT|TENSORBOARD_LOG|STORAGE|STAGING)_(?:DIR|PREFIX|URI)\b", re.IGNORECASE
)
"""How places that may be remote are called, as variables of the environment and as names in the code."""


def findings(source: str) -> Iterator[tuple[int, str]]:
    """The line and what is wrong there."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((node.lineno, f"imports {name}") for name in _imported(node) if name in MODULES)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os.path" and ast.unparse(node) not in PURE:
            yield node.lineno, f"uses {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in OPENERS:
            yield node.lineno, f"calls {ast.unparse(node.func)}()"
    for scope in [
        tree,
        *(node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))),
    ]:
        yield from _local_uses(scope)


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    for alias in node.names:
        yield alias.name
        if isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield f"{node.module}.{alias.name}"


def _local_uses(scope: ast.AST) -> Iterator[tuple[int, str]]:
    places = {name for node in _inside(scope) for name in _places(node)}
    for node in _inside(scope):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in LOCAL:
            for given in node.args[:1]:
                named = {one.id for one in ast.walk(given) if isinstance(one, ast.Name)} & places
                is_local = ast.unparse(given).endswith(".path")  # refuses a remote location itself
                if not is_local and (named or PLACE.search(ast.unparse(given))):
                    yield node.lineno, f"takes {ast.unparse(given)} for a local path in {ast.unparse(node.func)}()"


def _inside(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope, without those of functions inside it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _inside(child)


def _places(node: ast.AST) -> Iterator[str]:
    """Names that hold a Location here: annotated as one, or read or made from one."""
    if isinstance(node, ast.arg) and node.annotation is not None and "Location" in ast.unparse(node.annotation):
        yield node.arg
    elif isinstance(node, ast.AnnAssign) and "Location" in ast.unparse(node.annotation):
        yield ast.unparse(node.target)
    elif isinstance(node, ast.Assign) and "Location.parse(" in ast.unparse(node.value):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def main() -> int:
    """Exit code 1, with the findings on standard error, when there are any."""
    found = [
        f"{path.relative_to(ROOT)}:{line} {text}"
        for path in sorted(SRC.rglob("*.py"))
        for line, text in sorted(set(findings(path.read_text(encoding="utf-8"))))
    ]
    for problem in found:
        sys.stderr.write(
            f"locations: {problem}; use pathlib for local files, endcap.workspace.locations for all others\n"
        )
    if not found:
        sys.stdout.write("locations: no os.path, open() or glob, and no remote place taken for a local path\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
