"""Claim: whatever the endpoint, streaming, number of answers, tools, coding, position and mode, a response is judged,
refused or counted, never passed silently; and the page of the docs is what the command prints.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.matrix.__main__ import matrix
from benchmarks.matrix.cells import COUNTED, MODES, REFUSED
from benchmarks.matrix.page import page
from benchmarks.matrix.positions import POSITIONS

PAGE = Path(__file__).parents[3] / "docs" / "http-matrix.md"


@pytest.mark.long
def test_nothing_passes_silently_and_the_docs_say_so() -> None:
    cells = matrix()
    assert {cell.position for cell in cells} == set(POSITIONS) and {cell.mode for cell in cells} == set(MODES)
    assert [cell for cell in cells if cell.is_failure] == []
    assert {cell.mode for cell in cells if cell.outcome == REFUSED} == {"closed"}
    assert not [cell for cell in cells if cell.mode == "closed" and cell.outcome == COUNTED]
    assert page(cells) == PAGE.read_text()
