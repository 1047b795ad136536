"""Claims about the page of servers: every preset has its row, and what a row cites is there and is about it."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import pytest
from benchmarks.servers.__main__ import SERVERS

from tocsin.demo.model_server import REQUIREMENTS
from tocsin.protocols.protocol import preset, presets

ROOT = Path(__file__).parents[2]
HOW = {"run", "spoken", "described"}
# What a cited file must hold, by how a server was tried: its own code where it says so.
OWN_CODE = {"tritonclient": "tritonclient", "smg-grpc-proto": "smg_grpc_proto", "MLServer": "demo", "grpcio": "grpc"}


class Row(NamedTuple):
    server: str
    protocol: str
    tried: str
    how: str
    where: str


def rows() -> list[Row]:
    page = (ROOT / "docs" / "servers.md").read_text("utf-8").partition("## What is not read")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")
    ]
    return [Row(*row) for row in cells[1:]]


ROWS = rows()


def test_every_preset_has_a_row_and_every_row_a_preset() -> None:
    named = {name for row in ROWS for name in re.findall(r"`(\w+)`", row.protocol)}
    assert named == set(presets())
    assert all(row.protocol == "your own" or row.protocol.strip("`") in presets() for row in ROWS)
    assert {row.how for row in ROWS} == HOW


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.server)
def test_what_a_row_cites_is_there_and_is_about_it(row: Row) -> None:
    makefile = (ROOT / "Makefile").read_text()
    files = re.findall(r"`(tests/[\w/]+\.py)`", row.where)
    for server in re.findall(r"`python -m benchmarks\.servers --only (\w+)`", row.where):
        assert row.how == "run" and server in SERVERS
        files.append("benchmarks/servers/__main__.py")
    targets = re.findall(r"`make ([\w-]+)`", row.where)
    assert files
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    texts = [(ROOT / file).read_text("utf-8") for file in files]
    if row.protocol != "your own" and row.how != "run":
        name = row.protocol.strip("`")
        services = {method.split("/")[1] for method in preset(name)}
        assert any(f'"{name}"' in text or any(s in text for s in services) or name == "oip" for text in texts), name
    for package, word in OWN_CODE.items():
        if row.how != "described" and package in row.tried:
            assert any(word in text for text in texts), package


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.server)
def test_the_version_that_is_told_is_the_one_that_runs_here(row: Row) -> None:
    for package, version_shown in re.findall(r"`?([A-Za-z][\w-]+)`? (\d+\.\d+)", row.tried):
        if package == "MLServer":
            assert any(required.startswith(f"mlserver=={version_shown}.") for required in REQUIREMENTS)
            continue
        try:
            installed = version(package.lower())
        except PackageNotFoundError:
            continue  # it runs in an environment of its own
        assert installed.startswith(f"{version_shown}."), f"{package} {installed}: say so in docs/servers.md"


def test_nothing_is_called_run_or_spoken_whose_code_takes_no_part() -> None:
    """Described rows name no package, and no other row says that messages were made by hand."""
    for row in ROWS:
        by_hand = "by hand" in row.tried or "of ours that" in row.tried or "as above" in row.tried
        assert by_hand == (row.how == "described"), row.server
