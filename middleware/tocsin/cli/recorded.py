"""Options that commands on recordings share."""

from __future__ import annotations

from typing import Annotated

import typer

ModelName = Annotated[str | None, typer.Option(help="The model, where the recording holds several.")]
LeaveOutBroken = Annotated[
    bool, typer.Option("--leave-out-broken", help="Leave responses out that hold NaN or infinity.")
]
