"""The command `tocsin`: one file a verb."""

from tocsin.cli.main import main

__all__ = ["main"]
