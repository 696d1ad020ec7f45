"""Messages written down in a folder in, the modules that `scripts/protos.py` makes of them out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from endcap.serving import protos

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "endcap" / "serving" / "protos"
OURS = sorted(path.stem for path in SOURCE.glob("*.proto"))

# Another library's message of the same name, in the pool of the process; then ours, and bytes from the one to the other.
_BESIDE_ANOTHER = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
described = descriptor_pb2.FileDescriptorProto(name="tensorflow/core/example/feature.proto", package="tensorflow", syntax="proto3")
message = described.message_type.add(name="BytesList")
message.field.add(name="value", number=1, type="TYPE_BYTES", label="LABEL_REPEATED")
pool = descriptor_pool.Default()
pool.Add(described)
theirs = message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.BytesList"))
from endcap.serving.protos import tensorflow_pb2 as ours
assert ours.BytesList.DESCRIPTOR is not theirs.DESCRIPTOR
print(ours.BytesList.FromString(theirs(value=[b"p1", b"p2"]).SerializeToString()).value)
"""


def checkout(folder: Path) -> Path:
    """A folder with the script and the messages alone."""
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "protos.py", folder / "scripts")
    to = folder / "src" / "endcap" / "serving" / "protos"
    to.mkdir(parents=True)
    for path in SOURCE.glob("*.proto"):
        shutil.copy(path, to)
    return folder


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, folder / "scripts" / "protos.py"], capture_output=True, text=True)


def test_each_file_of_messages_becomes_a_module_and_its_types(tmp_path: Path) -> None:
    done = run(checkout(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    written = [
        Path(line).relative_to(tmp_path / "src/endcap/serving/protos").as_posix() for line in done.stdout.split()
    ]
    assert written == [f"{name}_pb2.{kind}" for name in OURS for kind in ("py", "pyi")]


def test_what_is_generated_here_is_what_the_checkout_uses(tmp_path: Path) -> None:
    run(checkout(tmp_path))
    for name in OURS:
        anew = tmp_path / "src/endcap/serving/protos" / f"{name}_pb2.py"
        assert anew.read_bytes() == (Path(protos.__file__).parent / f"{name}_pb2.py").read_bytes()


def test_broken_message_is_refused_by_line(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    (folder / "src/endcap/serving/protos/health.proto").write_text('syntax = "proto3";\nmessage {}\n')
    done = run(folder)
    assert done.returncode == 1
    assert "health.proto:2:9" in done.stderr


def test_without_messages_nothing_is_generated(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    shutil.rmtree(folder / "src")
    done = run(folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_messages_stand_beside_those_of_another_library() -> None:
    done = subprocess.run([sys.executable, "-c", _BESIDE_ANOTHER], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[b'p1', b'p2']\n", "")


@pytest.mark.parametrize("name", OURS)
def test_modules_need_no_grpc(name: str) -> None:
    program = f"import sys, endcap.serving.protos.{name}_pb2; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
