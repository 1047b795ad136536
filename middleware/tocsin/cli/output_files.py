"""Files that a command is to write, looked at before it works for them."""

from __future__ import annotations

import os
from pathlib import Path

from tocsin.errors import ConfigError


def require_writable(path: Path) -> None:
    """Raises ConfigError where a file of that name cannot be made."""
    folder = path.parent
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file")
    if not folder.is_dir():
        raise ConfigError(f"{path}: cannot be written: there is no folder {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigError(f"{path}: cannot be written: permission denied")
