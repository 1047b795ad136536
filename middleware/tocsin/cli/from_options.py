"""A command whose options are the fields of a dataclass."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

Options = TypeVar("Options")


def command(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """A decorator: makes a function of such a dataclass a command that typer sees with one parameter for each field."""

    def decorate(run: Callable[[Options], None]) -> Callable[..., None]:
        def run_with(**values: Any) -> None:
            run(options(**values))

        hints = get_type_hints(options, include_extras=True)
        parameters = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
                annotation=hints[field.name],
            )
            for field in dataclasses.fields(options)  # type: ignore[arg-type]
        ]
        run_with.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run_with.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run_with.__doc__, run_with.__name__ = run.__doc__, run.__name__
        return run_with

    return decorate
