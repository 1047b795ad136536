"""The looks of one gate, kept in a file: what was counted between them, so that every look adds only new counts."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tocsin.errors import CheckError

MOST_LOOKS = 100_000


@dataclass
class Looks:
    """Batches of counts (T, K) between looks, the counters at the last look by target, and the gate's settings.

    The evidence is valid only for a gate that stays the same, so `terms` must not change between looks.
    """

    terms: dict[str, Any]
    batches: list[list[float]] = field(default_factory=list)
    last: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | None, terms: dict[str, Any]) -> Looks:
        """The looks so far; none without a file. Raises CheckError on a file that no gate wrote, or one with other
        terms.
        """
        if path is None or not path.exists():
            return cls(terms)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            looks = cls(dict(content["terms"]), list(content["batches"]), dict(content["last"]))
            looks.batches = [[float(count) for count in row] for row in looks.batches]
            looks.last = {str(name): [float(count) for count in row] for name, row in looks.last.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckError(f"--looks {path}: was not written by tocsin gate ({error})") from None
        for name, value in terms.items():
            if looks.terms.get(name) != value:
                raise CheckError(
                    f"--looks {path}: this gate began with {name} {looks.terms.get(name)}, and cannot go on with "
                    f"{value}: its probabilities hold for one choice; begin another file for another gate"
                )
        return looks

    def write(self, path: Path | None) -> None:
        """Write the file. Raises CheckError when there are too many looks, OSError when it cannot be written."""
        if path is None:
            return
        if len(self.batches) > MOST_LOOKS:
            raise CheckError(f"--looks {path}: holds {MOST_LOOKS:,} looks, and takes no more")
        staged = path.with_name(f".{path.name}.{os.getpid()}.part")
        staged.write_text(json.dumps({"terms": self.terms, "last": self.last, "batches": self.batches}))
        staged.replace(path)
