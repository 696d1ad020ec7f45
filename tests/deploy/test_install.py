"""Each environment of the Dockerfile made by its own steps in a clean folder, and each target's command started in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy import dockerfile
from tests.deploy.dockerfile import ROOT, TARGETS

pytestmark = pytest.mark.slow

FILE = dockerfile.read()
ENVIRONMENTS = ("environment-serve", "environment-batch", "environment-train")


def environment_of(target: str) -> str:
    """The stage whose environment a target copies."""
    taken = [dockerfile.copied(value)[0] for stage in FILE.chain(target, "cpu") for value in stage.values("COPY")]
    return [stage for stage in taken if stage is not None][-1]


def build(stage: str, image: Path) -> None:
    """Carry out the COPY and RUN steps of a stage and of those before it, below `image` in place of `/`.

    What belongs to the machine (deploy/system.sh: apt-get) is left out.
    """
    source = image / "srv/endcap/source"
    for step in [step for part in FILE.chain(stage, "cpu") for step in part.steps]:
        if step.instruction == "COPY":
            _, names, destination = dockerfile.copied(step.value)
            for name in names:
                target = source / destination / Path(name).name if destination.endswith("/") else source / destination
                target.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, target, **({"dirs_exist_ok": True} if (ROOT / name).is_dir() else {}))
        elif step.instruction == "RUN" and "system.sh" not in step.value:
            command = " ".join(word for word in step.value.split() if not word.startswith("--mount"))
            run(command.replace("/srv/", f"{image}/srv/"), source)


def run(command: str, folder: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ENDCAP"))}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environment | variables, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("stage", ENVIRONMENTS)
def test_install_and_entry_steps(stage: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    build(stage, image)
    programs = image / "srv/endcap/venv/bin"
    run(f"{programs}/python -m pip check", image)
    has_torch = "torch" in run(f"{programs}/python -m pip list --format=freeze", image)
    assert has_torch == (stage == "environment-train")
    profile = (ROOT / "deploy/profile.sh").read_text(encoding="utf-8").replace("/srv/", f"{image}/srv/")
    (image / ".bash_profile").write_text(profile, encoding="utf-8")
    started = [target for target in TARGETS if environment_of(target) == stage]
    assert started != []
    for target in started:
        variables = {
            name: value.replace("/srv/", f"{image}/srv/")
            for name, value in FILE.environment(target).items()
            if name.startswith("ENDCAP") or name == "TRAIN_ARGS"
        }
        path = f"{programs}:{os.environ['PATH']}"
        said = run(f"{ROOT}/deploy/entry.sh --help", image, HOME=str(image), PATH=path, **variables)
        assert "Usage: endcap" in said, target
    assert run(f"cd {image} && {programs}/python -c 'import endcap; print(endcap.__file__)'", image).startswith(
        f"{image}"
    )
