"""Compiles the .proto files to descriptor sets at build time.

A descriptor set is data, not generated code: it fits every protobuf runtime, and messages made from it live in
a private pool, so they never collide with the generated modules of the program that Tocsin runs in.
"""

import sys
from pathlib import Path

from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "middleware" / "tocsin" / "protocols"


def compile_descriptor_sets(target: Path = PACKAGE) -> list[Path]:
    """Write one NAME.binpb (a serialised FileDescriptorSet) a NAME.proto into `target`."""
    import grpc_tools
    from grpc_tools import protoc

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    written = []
    for source in sorted(HERE.glob("*.proto")):
        out = target / f"{source.stem}.binpb"
        arguments = [
            "protoc",
            f"-I{HERE}",
            f"-I{well_known}",
            "--include_imports",
            f"--descriptor_set_out={out}",
            str(source),
        ]
        if protoc.main(arguments) != 0:
            raise SystemExit(f"protoc could not compile {source}")
        written.append(out)
    return written


class BuildPy(build_py):
    """setuptools' build_py, with the descriptor sets compiled into the source tree first."""

    def run(self) -> None:
        compile_descriptor_sets()
        super().run()


if __name__ == "__main__":
    sys.stdout.writelines(f"{path}\n" for path in compile_descriptor_sets())
