"""Compiles the .proto files to descriptor sets at build time.

A descriptor set is data, not generated code: it fits every protobuf runtime, and messages made from it live in
a private pool, so they never collide with the generated modules of the program that Tocsin runs in.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "middleware" / "tocsin" / "protocols"


def compile_descriptor_sets(target: Path = PACKAGE) -> list[Path]:
    """Write one NAME.binpb (a serialised FileDescriptorSet) a NAME.proto into `target`.

    A file that says the same already is left alone, and others are replaced at once: programs that run from this tree
    while it is built elsewhere never read half a file.
    """
    import grpc_tools
    from grpc_tools import protoc

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    paths = []
    with TemporaryDirectory() as folder:
        for source in sorted(HERE.glob("*.proto")):
            compiled, out = Path(folder) / f"{source.stem}.binpb", target / f"{source.stem}.binpb"
            arguments = [
                "protoc",
                f"-I{HERE}",
                f"-I{well_known}",
                "--include_imports",
                f"--descriptor_set_out={compiled}",
                str(source),
            ]
            if protoc.main(arguments) != 0:
                raise SystemExit(f"protoc could not compile {source}")
            content = compiled.read_bytes()
            if not out.exists() or out.read_bytes() != content:
                staged = out.with_suffix(".part")
                staged.write_bytes(content)
                staged.replace(out)
            paths.append(out)
    return paths


class BuildPy(build_py):
    """setuptools' build_py, with the descriptor sets compiled into the source tree first."""

    def run(self) -> None:
        compile_descriptor_sets()
        super().run()


if __name__ == "__main__":
    sys.stdout.writelines(f"{path}\n" for path in compile_descriptor_sets())
