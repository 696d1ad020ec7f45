"""deploy/Dockerfile in, its stages out: what each is built from, what it copies, runs and sets, as dockerfile-parse reads it."""

from __future__ import annotations

import fnmatch
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"

TARGETS = (
    "train", "ingest-sessionize", "features", "train-retrieval", "train-rank", "batch-infer", "ann-build", "serve", "compat",
)  # fmt: skip
DEVICES = ("cpu", "cuda", "compat")

_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_ASSIGNMENT = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')


@dataclass(frozen=True)
class Step:
    """One instruction: its name in capitals, and its value."""

    instruction: str
    value: str


@dataclass
class Stage:
    """A stage: the image or the stage that it is built on, and its instructions in order."""

    name: str
    base: str
    steps: list[Step] = field(default_factory=list)

    def values(self, instruction: str) -> list[str]:
        return [step.value for step in self.steps if step.instruction == instruction]


@dataclass(frozen=True)
class Dockerfile:
    """The whole file: arguments before the first stage, and the stages by name."""

    arguments: dict[str, str]
    stages: dict[str, Stage]

    def chain(self, target: str, device: str) -> list[Stage]:
        """The stages that a target consists of, from the one on a foreign image to the target itself."""
        given = self.arguments | {"DEVICE": device}
        found = []
        name = target
        while name in self.stages:
            stage = self.stages[name]
            found.append(stage)
            name = expanded(expanded(stage.base, given), given)
        return found[::-1]

    def environment(self, target: str, device: str = "cpu") -> dict[str, str]:
        """What ENV sets in a target; what its base brings is left out."""
        found: dict[str, str] = {}
        for stage in self.chain(target, device):
            for value in stage.values("ENV"):
                found |= assignments(value)
        return found


def read(text: str | None = None) -> Dockerfile:
    """The stages of the Dockerfile's text, by default of deploy/Dockerfile."""
    parser = DockerfileParser(fileobj=io.BytesIO((text or DOCKERFILE.read_text(encoding="utf-8")).encode()))
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in parser.structure:
        instruction, value = line["instruction"], line["value"]
        if instruction == "COMMENT":
            continue
        if instruction == "FROM":
            base, _, name = value.partition(" AS ")
            stage = stages[name] = Stage(name, base)
        elif stage is None:
            arguments |= assignments(value)
        else:
            stage.steps.append(Step(instruction, value))
    return Dockerfile(arguments, stages)


def expanded(value: str, variables: Mapping[str, str]) -> str:
    """A value with its ${NAME}s replaced by what is known of them, by nothing else."""
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], match[0]), value)


def assignments(value: str) -> dict[str, str]:
    """NAME=VALUE pairs of ARG, ENV or LABEL; a name without a value has an empty one."""
    pairs = {name: text.strip('"') for name, text in _ASSIGNMENT.findall(value)}
    return pairs or {value.strip(): ""}


def copied(value: str) -> tuple[str | None, list[str], str]:
    """Of a COPY: the stage that it takes from, if any, the sources, the destination."""
    words = value.split()
    flags = [word for word in words if word.startswith("--")]
    stage = next((flag.removeprefix("--from=") for flag in flags if flag.startswith("--from=")), None)
    *sources, destination = [word for word in words if not word.startswith("--")]
    return stage, sources, destination


def exec_form(value: str) -> list[str]:
    words: list[str] = json.loads(value)
    return words


def is_ignored(path: str, ignore_file: Path) -> bool:
    """Whether the build leaves a path out, by the rules of a .dockerignore: the last line that fits decides."""
    ignored = False
    for line in ignore_file.read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        lets_through = pattern.startswith("!")
        wanted = pattern.removeprefix("!").removeprefix("**/")
        ways = [path, *(str(parent) for parent in Path(path).parents)]
        if any(fnmatch.fnmatch(way, wanted) or ("**/" in pattern and Path(way).name == wanted) for way in ways):
            ignored = not lets_through
    return ignored
