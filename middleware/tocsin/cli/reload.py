"""tocsin reload"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import grpc
import typer

from tocsin.errors import ReloadError
from tocsin.reloading import SERVICE, ReloadRequest, ReloadResponse

TokenOption = Annotated[Path | None, typer.Option("--token", help="The file of the admin port's token.")]


def reload(
    to: Annotated[str, typer.Option(help="The admin address of a running tocsin.")] = "127.0.0.1:9465",
    token: TokenOption = None,
) -> None:
    """Have a running tocsin read its configuration, bundles and certificates again."""
    metadata = () if token is None else (("authorization", f"Bearer {token.read_text().strip()}"),)
    with grpc.insecure_channel(to) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/Reload",
            request_serializer=ReloadRequest.SerializeToString,
            response_deserializer=ReloadResponse.FromString,
        )
        try:
            typer.echo(call(ReloadRequest(), timeout=120, metadata=metadata).told)
        except grpc.RpcError as error:
            nobody = error.code() is grpc.StatusCode.UNAVAILABLE
            hint = "; --to names the address of `admin`, not that of the metrics or of callers" if nobody else ""
            raise ReloadError(f"{to}: {error.details()}{hint}") from None
