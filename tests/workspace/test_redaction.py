"""A remembered secret is in no text that goes out, however it is written there."""

import base64
import json
import os
import subprocess
import sys
import urllib.parse

import pytest

from endcap.workspace.redaction import redact, redact_values, remember

SECRET = 'pä55"wörd/with\\odd=chars&'  # noqa: S105 - planted


@pytest.fixture(autouse=True, scope="module")
def _remembered():
    remember(SECRET, "secret://odd")


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        urllib.parse.quote(SECRET, safe=""),
        urllib.parse.quote_plus(SECRET),
        repr(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
    ],
)
def test_every_way_of_writing_it_is_replaced_by_its_name(written):
    found = redact(f"key is {written}, twice {written}.")
    assert found.count("<secret://odd>") == 2
    assert "pä55" not in found
    assert "p%C3" not in found


def test_users_and_passwords_in_addresses_go_and_the_rest_stays():
    said = "https://ann:pw@mlflow.example:5000/a?b=c failed; see https://docs.example/x@y and a@b.c"
    assert redact(said) == (
        "https://<credentials>@mlflow.example:5000/a?b=c failed; see https://docs.example/x@y and a@b.c"
    )


def test_nested_values_keep_their_shape():
    given = {"a": [1, SECRET, None], "b": {"c": 0.5, "d": f"x{SECRET}"}, "e": True}
    assert redact_values(given) == {
        "a": [1, "<secret://odd>", None],
        "b": {"c": 0.5, "d": "x<secret://odd>"},
        "e": True,
    }


def test_what_is_too_short_to_tell_from_words_is_left():
    remember("train", "secret://short")
    assert redact("train") == "train"


def test_a_process_prints_none_in_tracebacks_warnings_and_logs_of_any_library():
    code = """
import logging, os, sys, threading, warnings
from endcap.workspace.redaction import guard_process
guard_process()
key = os.environ["WANDB_API_KEY"]
logging.basicConfig(level=logging.INFO)
logging.getLogger("urllib3").info("GET /?key=%s", key)
logging.getLogger("urllib3").info("broken %s %s", 1)
warnings.warn(f"deprecated for {key}")
try:
    raise ValueError(f"key {key}")
except ValueError:
    logging.getLogger("x").exception("failed with")
def work():
    raise ValueError(f"in a thread {key}")
thread = threading.Thread(target=work); thread.start(); thread.join()
raise RuntimeError(f"the end: {key}")
"""
    key = "0123456789abcdefplanted"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "WANDB_API_KEY": key},
        check=False,
    )
    assert done.returncode == 1
    assert key not in done.stdout + done.stderr
    for said in (
        "GET /?key=<WANDB_API_KEY>",
        "deprecated for <WANDB_API_KEY>",
        "ValueError: key <WANDB_API_KEY>",
        "ValueError: in a thread <WANDB_API_KEY>",
        "RuntimeError: the end: <WANDB_API_KEY>",
    ):
        assert said in done.stderr
