"""The messages in src/endcap/serving/protos/*.proto in, their Python classes and types beside them out.

Run by each build of the package (a hook of hatchling), and by hand in a checkout that is used without being installed.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path
from typing import Any

FOLDER = "endcap/serving/protos"
# Messages of these names may be in the process already, brought by TensorFlow or tritonclient: ours go into a pool apart.
DEFAULT_POOL, OWN_POOL = "_descriptor_pool.Default()", "_pool.POOL"
POOL_IMPORT = "from endcap.serving.protos import pool as _pool\n"


def generate(root: Path) -> list[Path]:
    """Write `NAME_pb2.py` and `NAME_pb2.pyi` for each `NAME.proto` below `root`; those files. Raises RuntimeError."""
    source = root / "src"
    protos = sorted((source / FOLDER).glob("*.proto"))
    if not protos:  # an image's libraries are installed before the code is there
        return []
    from grpc_tools import protoc

    arguments = [f"--proto_path={source}", f"--proto_path={resources.files('grpc_tools') / '_proto'}"]
    arguments += [f"--python_out={source}", f"--pyi_out={source}", *map(str, protos)]
    if protoc.main(["protoc", *arguments]) != 0:
        raise RuntimeError(f"protoc refused the messages in {source / FOLDER}: the lines above say why.")
    written = []
    for proto in protos:
        module = proto.with_name(f"{proto.stem}_pb2.py")
        text = module.read_text(encoding="utf-8")
        if text.count(DEFAULT_POOL) != 1:
            raise RuntimeError(
                f"{module} names the pool of messages elsewhere than once: this grpcio-tools isn't known here."
            )
        imports, call, rest = text.partition(f"DESCRIPTOR = {DEFAULT_POOL}")
        module.write_text(f"{imports}{POOL_IMPORT}\n{call.replace(DEFAULT_POOL, OWN_POOL)}{rest}", encoding="utf-8")
        written += [module, module.with_suffix(".pyi")]
    return written


def get_build_hook() -> Any:
    """What hatchling asks for: the hook that writes the files before a wheel, or an editable install, is made."""
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class Protos(BuildHookInterface):  # type: ignore[type-arg, misc, unused-ignore]  # hatchling may be absent
        def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 (hatchling's signature)
            generate(Path(self.root))

    return Protos


if __name__ == "__main__":
    for path in generate(Path(__file__).resolve().parent.parent):
        sys.stdout.write(f"{path}\n")
