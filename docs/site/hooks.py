"""What `mkdocs` (mkdocs.yml) does besides: pages that are written when the site is built, and links out of docs/."""

from __future__ import annotations

from typing import Any

from docs.site import command_pages, python_pages, repository_pages, setting_pages
from mkdocs.structure.files import File


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and the files of the repository that pages link to."""
    written = {
        "reference/settings.md": setting_pages.page(),
        "reference/commands.md": command_pages.page(),
        "reference/api.md": python_pages.page(),
        **{name: repository_pages.page(name) for name in repository_pages.PAGES},
    }
    for name, content in written.items():
        files.append(File.generated(config, name, content=content))
    for path in repository_pages.linked_files():
        files.append(File.generated(config, repository_pages.copied(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links that leave docs/ to what stands for their targets on the site."""
    return repository_pages.with_site_links(markdown, page.file.src_uri)
