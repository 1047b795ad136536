"""Message classes from descriptor sets, in pools of their own.

A private pool never collides with generated modules of the same names in the user's program, and needs no
generated code that would have to match the protobuf runtime.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

HERE = Path(__file__).parent


@cache
def pool(name: str) -> descriptor_pool.DescriptorPool:
    """The pool of the shipped descriptor set NAME.binpb, compiled from proto/NAME.proto at build time."""
    path = HERE / f"{name}.binpb"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RuntimeError(f"{path} is missing: build it with `python proto/descriptor_sets.py`") from None
    made = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        made.Add(file)
    return made


def message_class(name: str, message: str) -> type[Any]:
    """The class of the message with that full name."""
    found: type[Any] = message_factory.GetMessageClass(pool(name).FindMessageTypeByName(message))
    return found
