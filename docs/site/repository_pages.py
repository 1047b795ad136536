"""Files of the repository outside docs/ on the site: those at its root as pages, those that pages link to as copies.

On GitHub a page links to `../examples/robot/control.py`; on the site the same link leads to a copy under `source/`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {  # a page of the site, and the file of the root that it is
    "project/architecture.md": "ARCHITECTURE.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/changelog.md": "CHANGELOG.md",
    "project/reporting.md": "SECURITY.md",
    "project/conduct.md": "CODE_OF_CONDUCT.md",
}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def page(name: str) -> str:
    """The Markdown of one of PAGES."""
    return (ROOT / PAGES[name]).read_text("utf-8")


def copied(path: Path) -> str:
    """Where the site has the copy of a file of the repository."""
    return f"source/{path.relative_to(ROOT).as_posix()}"


def linked_files() -> Iterator[Path]:
    """The files outside docs/ that a page links to, without those that are pages themselves."""
    targets = {target for source in DOCS.rglob("*.md") for target in _targets(source)}
    pages = {ROOT / name for name in PAGES.values()}
    yield from sorted(path for path in targets - pages if path.is_file() and not path.is_relative_to(DOCS))


def with_site_links(markdown: str, source: str) -> str:
    """The Markdown of the page `source` (its path on the site) with links that hold on the site."""
    real = ROOT / PAGES[source] if source in PAGES else DOCS / source

    def replaced(match: re.Match[str]) -> str:
        target = (real.parent / match[1]).resolve()
        where = _place(target)
        if where is None:
            return match[0]  # the build says that there is no such page
        return posixpath.relpath(where, posixpath.dirname(source) or ".") + (match[2] or "")

    return _LINK.sub(replaced, markdown)


def _targets(source: Path) -> Iterator[Path]:
    for match in _LINK.finditer(source.read_text("utf-8")):
        yield (source.parent / match[1]).resolve()


def _place(target: Path) -> str | None:
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    for name, file in PAGES.items():
        if target == ROOT / file:
            return name
    return copied(target) if target.is_file() and target.is_relative_to(ROOT) else None
