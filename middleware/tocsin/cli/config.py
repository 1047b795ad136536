"""tocsin config check|schema"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tocsin.checking import problems_of
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError

app = typer.Typer(help="Look at configurations.", no_args_is_help=True)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A configuration file.")] = Path("tocsin.yaml"),
    in_program: Annotated[
        bool, typer.Option("--in-program", help="Of a program that guards its own calls, so that no port is opened.")
    ] = False,
) -> None:
    """Check a configuration as `serve` would: environment, bundles, paths, certificates, tokens, secrets, folders."""
    config = Config.load(file)
    problems, guard = problems_of(config, in_program=in_program)
    if problems or guard is None:
        raise ConfigError("\n".join(problems))
    models = [f"{name} ({model.digests[0][:19] or 'no bundle'})" for name, model in guard.models.items()]
    ways = [f"{listener.listen} -> {listener.upstream}" for listener in config.every_listener[:1]]
    ways += [] if config.ext_proc is None else [f"ext_proc on {config.ext_proc}"]
    ways = ["in a program"] if in_program else ways
    typer.echo(f"{file}: {config.mode}, {' and '.join(ways)}, guards {', '.join(models)}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration."""
    typer.echo(json.dumps(Config.model_json_schema(), indent=2))
