"""What mkdocs cannot do by itself: pages of the site that lie outside of `docs/`, and links to them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/LOG.md": "log.md",
    "recipes/README.md": "recipes.md",
    "src/softprompt/bases/builtin/tiny/README.md": "tiny.md",
}
"""Pages that lie elsewhere in the project, and what they are called on the site."""


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that lie elsewhere."""
    for path, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Make links between files of the project links between pages; a file that is no page is named without a link."""
    inside = {name: path for path, name in OUTSIDE.items()}
    place = posixpath.dirname(inside.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def moved(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        path = posixpath.normpath(posixpath.join(place, target))
        name = OUTSIDE.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        return f"[{text}]({name}{anchor})" if name else text

    return re.sub(r"\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)", moved, markdown)
