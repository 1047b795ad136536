"""Claims about the version: it is that of the last git tag; and about what the source distribution has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FALLBACK = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools_scm"]["fallback_version"]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def version(folder: Path) -> str:
    """What a build from this folder would be called."""
    command = [sys.executable, "-m", "setuptools_scm"]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of one commit without a tag."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_a_tagged_commit_has_the_version_of_its_tag_and_later_ones_add_theirs(checkout: Path) -> None:
    git(checkout, "tag", "v1.2.3")
    assert version(checkout) == "1.2.3"
    git(checkout, "commit", "--allow-empty", "-m", "second")
    assert re.fullmatch(r"1\.2\.3\+g[0-9a-f]+", version(checkout))  # a local version, which no index takes


def test_without_a_tag_and_without_git_it_is_the_fallback(checkout: Path) -> None:
    assert re.fullmatch(rf"{re.escape(FALLBACK)}\+g[0-9a-f]+", version(checkout))
    shutil.rmtree(checkout / ".git")
    assert version(checkout) == FALLBACK


@pytest.mark.long
def test_the_source_distribution_has_the_packages_and_what_builds_them(tmp_path: Path) -> None:
    """setuptools-scm offers every file that git knows; MANIFEST.in keeps out what only a checkout needs."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    git(tmp_path, "clone", "--shared", str(ROOT), "checkout")
    pack = "from setuptools import build_meta; print(build_meta.build_sdist('..'))"
    subprocess.run([sys.executable, "-c", pack], cwd=tmp_path / "checkout", check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {Path(*Path(member.name).parts[1:]) for member in packed if member.isfile()}
    tops = {name.parts[0] for name in names}
    assert tops == {
        "CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg", "setup.py",
        "calibration", "detectors", "middleware", "proto", "tocsin.egg-info",
    }  # fmt: skip
    sources = {path.relative_to(ROOT) for path in (ROOT / "middleware" / "tocsin").rglob("*.py")}
    in_c = {path.relative_to(ROOT) for path in (ROOT / "detectors").rglob("*.[ch]")}
    assert in_c and sources | in_c <= names
