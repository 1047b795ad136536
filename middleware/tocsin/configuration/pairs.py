"""Files of pairs, one NAME=VALUE on each line, for named secrets such as headers or a client's settings."""

from __future__ import annotations

from pathlib import Path

from tocsin.errors import ConfigError


def read_pairs(path: Path | None, where: str) -> dict[str, str]:
    """The pairs of a file, none without a file. Empty lines and comments (#) are skipped. Raises ConfigError naming
    `where` the file was configured.
    """
    if path is None:
        return {}
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except OSError as error:
        raise ConfigError(f"{where}: {path}: cannot be read ({error.strerror})") from None
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in pairs}
