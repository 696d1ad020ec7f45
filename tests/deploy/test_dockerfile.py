"""The Dockerfile keeps what CONTRACTS promises of the images: targets, pinned bases, no root, every file it copies is there."""

from __future__ import annotations

import importlib.util
import re
import tomllib

import pytest
from typer.testing import CliRunner

import endcap
from endcap.cli.app import app
from tests.deploy import dockerfile
from tests.deploy.dockerfile import DEVICES, DOCKERFILE, ROOT, TARGETS

FILE = dockerfile.read()


def test_every_target_is_there_on_every_base() -> None:
    roots = {device: {FILE.chain(target, device)[0].base for target in TARGETS} for device in DEVICES}
    assert roots == {device: {FILE.stages[f"base-{device}"].base} for device in DEVICES}
    assert FILE.stages["base-cuda"].base.startswith("nvidia/cuda:12.8.")


@pytest.mark.parametrize("device", DEVICES)
def test_bases_are_pinned(device: str) -> None:
    name, _, tag = FILE.stages[f"base-{device}"].base.rpartition("/")[2].partition(":")
    assert re.search(r"\d+[.-]\d+", tag or name), "a base without a version changes under our feet"
    assert tag != "latest"


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_the_entry_script_as_no_root(target: str) -> None:
    chain = FILE.chain(target, "cpu")
    user = dockerfile.expanded(
        [value for stage in chain for value in stage.values("USER")][-1], arguments_of("runtime")
    )
    assert int(user) >= 1000
    entry = dockerfile.exec_form([value for stage in chain for value in stage.values("ENTRYPOINT")][-1])
    assert entry == ["tini", "--", "/srv/endcap/entry.sh"]
    assert [value for stage in chain for value in stage.values("COPY") if value.endswith("/srv/endcap/venv")] != []


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_starts_a_command_that_exists(target: str) -> None:
    program, *words = FILE.environment(target)["ENDCAP_COMMAND"].split()
    if program == "python":
        assert (words[0], importlib.util.find_spec(words[1]) is not None) == ("-m", True)
        words = ["train"]
    verbs = [word for word in words if re.fullmatch("[a-z]+", word) and word not in ("token",)]
    result = CliRunner().invoke(app, [*verbs, "--help"])
    assert (result.exit_code, " ".join(verbs) in result.output) == (0, True)
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert [option for option in given if option not in result.output] == []


def test_every_copied_file_exists_and_reaches_the_build() -> None:
    copies = [dockerfile.copied(value) for stage in FILE.stages.values() for value in stage.values("COPY")]
    sources = [source for stage, names, _ in copies if stage is None for source in names]
    assert len(sources) > 10
    assert [source for source in sources if not (ROOT / source).exists()] == []
    ignore_file = DOCKERFILE.with_name("Dockerfile.dockerignore")
    assert [source for source in sources if dockerfile.is_ignored(source, ignore_file)] == []
    assert [stage for stage, _, _ in copies if stage is not None and stage not in FILE.stages] == []


@pytest.mark.parametrize(
    "path", [".git/config", "demo/endcap.yaml", "tests/conftest.py", "src/endcap/__pycache__", ".env"]
)
def test_nothing_else_reaches_the_build(path: str) -> None:
    assert dockerfile.is_ignored(path, DOCKERFILE.with_name("Dockerfile.dockerignore"))


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"/srv/endcap/venv ([a-z,]+)$", "\n".join(runs()), flags=re.MULTILINE)
    assert {"gcp,aws", "train,gcp,aws,mlflow,wandb"} == set(named)
    assert [name for names in named for name in names.split(",") if name not in project["optional-dependencies"]] == []


def test_what_serves_has_no_torch() -> None:
    built_from = {stage for value in FILE.stages["serve"].values("COPY") if (stage := dockerfile.copied(value)[0])}
    assert built_from == {"environment-serve"}
    run = FILE.stages["environment-serve"].values("RUN")[0]
    assert run.endswith("deploy/make-environment.sh /srv/endcap/venv")


def test_labels_say_what_it_is() -> None:
    labels = dockerfile.assignments(
        re.sub(r"org\.opencontainers\.image\.", "", FILE.stages["runtime"].values("LABEL")[0])
    )
    assert labels.keys() == {"title", "description", "licenses", "version", "revision", "created", "source"}
    assert arguments_of("runtime")["VERSION"] == endcap.__version__
    assert labels["revision"] == "${GIT_SHA}"
    assert FILE.environment("train")["ENDCAP_GIT_SHA"] == "${GIT_SHA}"


def test_no_secret_is_an_argument_or_a_variable() -> None:
    names = [
        name
        for stage in FILE.stages.values()
        for step in stage.steps
        if step.instruction in ("ARG", "ENV")
        for name in dockerfile.assignments(step.value)
    ]
    assert len(names) > 10
    assert [name for name in names if re.search("KEY|TOKEN|PASSWORD|SECRET|CREDENTIAL", name)] == []


def runs() -> list[str]:
    return [value for stage in FILE.stages.values() for value in stage.values("RUN")]


def arguments_of(stage: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in FILE.stages[stage].values("ARG"):
        found |= dockerfile.assignments(value)
    return found
