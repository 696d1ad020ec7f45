"""The entry script, run with stand-ins for `endcap` and `python`: the data first, then the command, its signals and its code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.deploy.dockerfile import ROOT

ENTRY = ROOT / "deploy" / "entry.sh"
STAND_IN = """#!/usr/bin/env bash
echo "${0##*/} $* STAGING_PREFIX=${STAGING_PREFIX-}" >>"$CALLS"
[[ $1 != data ]] || exit "${PULL_EXIT:-0}"
if [[ $1 == -m ]]; then
  echo '{"event": "run started"}'
  trap 'exit 143' TERM
  [[ -z ${WAIT-} ]] || while :; do sleep 0.02; done
  exit "${TRAIN_EXIT:-0}"
fi
echo "Workspace ready"
"""


class Image:
    """A folder that stands for an image's file system: stand-ins in the environment, and the profile that leads to them."""

    def __init__(self, folder: Path) -> None:
        programs = folder / "srv" / "endcap" / "venv" / "bin"
        programs.mkdir(parents=True)
        for name in ("endcap", "python"):
            (programs / name).write_text(STAND_IN, encoding="utf-8")
            (programs / name).chmod(0o755)
        # In an image the script stands in /etc/profile.d; a login shell without root reads the user's own in its place.
        profile = (ROOT / "deploy" / "profile.sh").read_text(encoding="utf-8")
        (folder / ".bash_profile").write_text(profile.replace("/srv/", f"{folder}/srv/"), encoding="utf-8")
        self.calls = folder / "calls"
        self.environment = {
            "PATH": f"{programs}:{os.defpath}",
            "HOME": str(folder),
            "CALLS": str(self.calls),
            "ENDCAP_COMMAND": "python -m train.main",
            "ENDCAP_WORKSPACE": "shop",
        }

    def start(self, *arguments: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [ENTRY, *arguments],
            env=self.environment | (variables or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, variables: Mapping[str, str] | None = None) -> tuple[int, str, list[str]]:
        """The exit code, standard output, and the calls that were made."""
        process = self.start(*arguments, variables=variables)
        output, _ = process.communicate(timeout=20)
        return process.returncode, output, self.calls.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def test_the_command_gets_its_arguments_and_standard_output_is_its_own(image: Image) -> None:
    variables = {"TRAIN_ARGS": "experiment=best training.num_epochs=3"}
    code, output, calls = image.run("training.device=cpu", "release.name=a b", variables=variables)
    assert (code, output) == (0, '{"event": "run started"}\n')
    assert calls == [
        "endcap init shop STAGING_PREFIX=",
        "python -m train.main experiment=best training.num_epochs=3 training.device=cpu release.name=a b STAGING_PREFIX=",
    ]


def test_the_version_of_the_data_is_fetched_first(image: Image) -> None:
    asked = {"DATA_VERSION_FILE": "gs://shop/data.dvc", "DATA_REMOTE": "gs://store", "STAGING_PREFIX": "gs://elsewhere"}
    before = "STAGING_PREFIX=gs://elsewhere"
    code, _, calls = image.run(variables=asked)
    assert code == 0
    assert calls[1:] == [
        f"endcap data pull gs://shop/data.dvc --to shop/staging --force --remote gs://store --workspace shop {before}",
        "python -m train.main STAGING_PREFIX=shop/staging",
    ]


def test_without_its_data_nothing_is_run(image: Image) -> None:
    code, output, calls = image.run(variables={"DATA_VERSION_FILE": "data.dvc", "PULL_EXIT": "2"})
    assert (code, output, len(calls)) == (2, "", 2)


def test_a_program_is_run_as_it_is(image: Image) -> None:
    assert image.run("bash", "-lc", "exec python -m elsewhere")[2][1:] == ["python -m elsewhere STAGING_PREFIX="]


def test_the_exit_code_is_the_commands(image: Image) -> None:
    assert image.run(variables={"TRAIN_EXIT": "7"})[0] == 7


def test_a_signal_reaches_the_command(image: Image) -> None:
    process = image.start(variables={"WAIT": "1"})
    assert process.stdout is not None
    assert process.stdout.readline() == '{"event": "run started"}\n'
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143


def test_a_configuration_is_rendered_or_says_what_is_missing() -> None:
    script, config = ROOT / "deploy" / "vertex" / "render.py", ROOT / "deploy" / "vertex" / "l4.yaml"
    done = subprocess.run([sys.executable, script, config], env={"REGION": "r"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "ARTIFACT_BUCKET, IMAGE_URI, NETWORK, PROJECT_ID, RUN_ID, SERVICE_ACCOUNT\n" in done.stderr
