"""The reference of commands and their options, from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from tocsin.cli.main import app

_INTRODUCTION = """# Commands

Generated from the commands themselves; `tocsin COMMAND --help` says the same. Every command ends with exit code 0, with
2 for a mistake of yours, which it names in one line, and with 1 for a fault of its own. `tocsin --install-completion`
installs completion for your shell.
"""


def page() -> str:
    """The page, in Markdown."""
    root = typer.main.get_command(app)
    lines = [_INTRODUCTION, "## `tocsin`", "", *_options(root)]
    for words, command in commands(root):
        lines += [f"## `{words}`", "", _paragraph(command.help), "", *_usage(words, command), *_options(command)]
    return "\n".join(lines) + "\n"


def commands(group: Any, words: str = "tocsin") -> Iterator[tuple[str, Any]]:
    """Every command that can be run, with the words that run it."""
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, f"{words} {name}")
        else:
            yield f"{words} {name}", command


def _usage(words: str, command: Any) -> list[str]:
    arguments = [argument for argument in command.params if argument.param_type_name == "argument"]
    named = " ".join(
        argument.name.upper() if argument.required else f"[{argument.name.upper()}]" for argument in arguments
    )
    return ["```text", f"{words} {named} [OPTIONS]".replace("  ", " "), "```", ""]


def _options(command: Any) -> list[str]:
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            names, default = f"`{parameter.name.upper()}`", "required" if parameter.required else ""
        else:
            names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
            default = "required" if parameter.required else _default(parameter)
        lines.append(f"| {names} | {default} | {_paragraph(parameter.help).replace('|', chr(92) + '|')} |")
    return [*lines, ""] if len(lines) > 2 else []


def _default(option: Any) -> str:
    value = option.default
    if value is None or value is False or callable(value) or value == ():
        return ""
    return f"`{getattr(value, 'value', value)}`"


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split())
