"""Print how many bytes the files of a folder have, those of other file systems left out: python size.py FOLDER."""

import os
import sys
from pathlib import Path


def size(folder: Path, device: int) -> int:
    total = 0
    for entry in os.scandir(folder):
        status = entry.stat(follow_symlinks=False)
        if status.st_dev == device:
            total += size(Path(entry), device) if entry.is_dir(follow_symlinks=False) else status.st_size
    return total


print(size(Path(sys.argv[1]), os.lstat(sys.argv[1]).st_dev))
