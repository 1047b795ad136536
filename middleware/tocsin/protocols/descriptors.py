"""Message classes from descriptor sets, in private pools.

A private pool does not collide with generated modules of the same names in the user's program, and needs no generated
code that has to match the protobuf runtime.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError

HERE = Path(__file__).parent

Pool = Any  # a google.protobuf DescriptorPool


@cache
def pool(name: str) -> Pool:
    """The pool of the shipped descriptor set NAME.binpb, compiled from proto/NAME.proto at build time."""
    path = HERE / f"{name}.binpb"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RuntimeError(f"{path} is missing: build it with `python proto/descriptor_sets.py`") from None
    return pool_of(content)


def pool_of(content: bytes) -> Pool:
    """The pool of a serialised FileDescriptorSet. Raises ValueError when it cannot be parsed, or lacks an import."""
    try:
        files = list(descriptor_pb2.FileDescriptorSet.FromString(content).file)
    except DecodeError as error:
        raise ValueError(
            f"it is no descriptor set ({error}); make one: protoc --include_imports --descriptor_set_out=FILE X.proto"
        ) from None
    return pool_of_files(files)


def pool_of_files(files: list[Any]) -> Pool:
    """The pool of FileDescriptorProtos, in any order. Raises ValueError when one lacks an import."""
    pool = descriptor_pool.DescriptorPool()
    waiting = {file.name: file for file in files}
    if not waiting:
        raise ValueError("it holds no files")
    added: set[str] = set()

    def add(name: str, above: tuple[str, ...]) -> None:
        """Add a file after those that it imports."""
        if name in added or name in above:
            return
        if name not in waiting:
            raise ValueError(f"it lacks '{name}', which others import: make it with --include_imports")
        for needed in waiting[name].dependency:
            add(needed, (*above, name))
        try:
            pool.Add(waiting[name])
            pool.FindFileByName(name)
        except (TypeError, KeyError) as error:
            raise ValueError(f"'{name}' in it is damaged ({error})") from None
        added.add(name)

    for name in waiting:
        add(name, ())
    return pool


def find_method(pool: Pool, name: str) -> MethodDescriptor:
    """The method /package.Service/Method. Raises ValueError, listing the methods that exist."""
    service, _, method = name.removeprefix("/").partition("/")
    try:
        described = pool.FindServiceByName(service)
    except KeyError:
        form = "" if method else "; a method is written /PACKAGE.SERVICE/METHOD"
        raise ValueError(f"there is no service '{service}' in the descriptors{form}") from None
    if method not in described.methods_by_name:
        names = ", ".join(described.methods_by_name)
        raise ValueError(f"service '{service}' has no method '{method}' (it has: {names})")
    return described.methods_by_name[method]


def message_class(name: str, message: str) -> type[Any]:
    """The class of the message with that full name in a shipped descriptor set."""
    message_type: type[Any] = message_factory.GetMessageClass(pool(name).FindMessageTypeByName(message))
    return message_type
