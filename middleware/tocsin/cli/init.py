"""tocsin init"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console

from tocsin.cli.output_files import require_writable
from tocsin.errors import ConfigError
from tocsin.protocols.protocol import is_http, presets
from tocsin.scaffold.asking import ask_methods, ask_models
from tocsin.scaffold.template import head, head_in_program, of_methods, of_models, of_preset


def init(
    ask: Annotated[
        str | None, typer.Option(help="HOST:PORT of a running model server, which is asked for its models or methods.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help=f"Without a server: a protocol that ships ({', '.join(presets())}).")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model's name; of a server that is asked, only these. May be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("tocsin.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a first configuration, from a model server's metadata or from a protocol that Tocsin ships."""
    if (ask is None) == (protocol is None):
        raise ConfigError("say --ask HOST:PORT where a model server runs, or --protocol NAME")
    if protocol is not None and protocol not in presets():
        raise ConfigError(f"--protocol {protocol}: ships not; there are {', '.join(presets())}")
    if out.exists() and not force:
        raise ConfigError(f"{out}: is there already; --force writes over it")
    require_writable(out)
    names = model or []
    if ask is not None:
        with grpc.insecure_channel(ask) as channel:
            models = ask_models(channel, names)
            body = of_methods(ask_methods(channel)) if models is None else of_models(models)
        text = head(ask, f"Written by `tocsin init --ask {ask}`: look at the signals, then record.") + body
    else:
        assert protocol is not None
        why = f"Written by `tocsin init --protocol {protocol}`."
        text = head_in_program(why) if is_http(protocol) else head("127.0.0.1:8001", why)
        text += of_preset(protocol, names[0] if names else "mine")
    out.write_text(text, encoding="utf-8")
    follows = f"tocsin config check {out} && tocsin record -c {out} -o safe"
    if protocol is not None and is_http(protocol):
        follows = f"tocsin config check --in-program {out}, and record in the program (tocsin.record)"
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"wrote {out}; look at it, then: {follows}")
