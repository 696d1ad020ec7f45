"""Cloud Build's files fit a strict schema of what they use, declare what they substitute, and build targets that exist."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import yaml

from tests.deploy import dockerfile
from tests.deploy.dockerfile import ROOT, TARGETS

FILES = sorted((ROOT / "deploy" / "cloudbuild").glob("*.yaml"))
BUILT_IN = {"PROJECT_ID", "COMMIT_SHA", "SHORT_SHA", "BUILD_ID"}
_SUBSTITUTION = re.compile(r"(?<!\$)\$(?:\{(\w+)\}|(\w+))")


class Step(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    name: str
    args: list[str]
    entrypoint: str | None = None
    env: list[str] = []


class Options(msgspec.Struct, forbid_unknown_fields=True):
    logging: str
    machineType: str  # noqa: N815 - as Cloud Build spells it
    diskSizeGb: str  # noqa: N815
    dynamicSubstitutions: bool  # noqa: N815


class Build(msgspec.Struct, forbid_unknown_fields=True):
    """The part of Cloud Build's `Build` message that the files use."""

    substitutions: dict[str, str]
    steps: list[Step]
    timeout: str
    options: Options
    images: list[str] = []


def read(path: Path) -> Build:
    return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Build)


def test_there_are_files() -> None:
    assert [path.name for path in FILES] == ["images.yaml", "train.yaml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_substituted_is_declared_and_used(path: Path) -> None:
    build = read(path)
    text = yaml.safe_dump(msgspec.to_builtins(build))
    used = {braced or bare for braced, bare in _SUBSTITUTION.findall(text)}
    assert used - BUILT_IN == build.substitutions.keys()
    assert [name for name in build.substitutions if not re.fullmatch(r"_[A-Z0-9_]+", name)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_steps_have_names_of_their_own_and_arguments_that_the_dockerfile_takes(path: Path) -> None:
    build, file = read(path), dockerfile.read()
    assert len({step.id for step in build.steps}) == len(build.steps)
    taken = set(file.arguments) | {"BUILDKIT_INLINE_CACHE"}
    for stage in file.stages.values():
        for value in stage.values("ARG"):
            taken |= dockerfile.assignments(value).keys()
    text = "\n".join(argument for step in build.steps for argument in step.args)
    given = set(re.findall(r"--build-arg[ =](\w+)=", text))
    assert given >= {"DEVICE", "GIT_SHA", "PIP_EXTRA_INDEX_URL"}
    assert given <= taken


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_builds_use_buildkit_and_read_no_secret(path: Path) -> None:
    build = read(path)
    builds = [step for step in build.steps if "build" in " ".join(step.args).split()]
    assert builds != []
    assert {tuple(step.env) for step in builds if "docker" in step.name} == {("DOCKER_BUILDKIT=1",)}
    assert not re.search(r"api[_-]?key|token|password|secretEnv", path.read_text(encoding="utf-8"), re.IGNORECASE)


def test_the_reference_set_is_built_and_pushed_by_sha_and_latest() -> None:
    build = read(ROOT / "deploy" / "cloudbuild" / "images.yaml")
    wanted = set(TARGETS) - {"train"}
    assert {step.id for step in build.steps} == wanted
    for step in build.steps:
        assert f"--target={step.id}" in step.args
        assert ("--build-arg=DEVICE=compat" in step.args) == (step.id == "compat")
        tags = {argument.removeprefix("--tag=") for argument in step.args if argument.startswith("--tag=")}
        assert tags == {f"${{_IMAGE}}-{step.id}:${{COMMIT_SHA}}", f"${{_IMAGE}}-{step.id}:latest"}
        assert tags <= set(build.images)
    assert len(build.images) == 2 * len(wanted)


def test_files_that_are_named_exist() -> None:
    for path in FILES:
        for value in read(path).substitutions.values():
            assert "/" not in value or "$" in value or (ROOT / value).is_file(), value
    assert {"_DEVICE", "_IMAGE_NAME", "_DOCKERFILE", "_VERTEX_TRAIN_CONFIG"} <= read(FILES[-1]).substitutions.keys()
