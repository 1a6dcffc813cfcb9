"""A page of figures: one file, which needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from softprompt.files import write_whole


def write_html(file: Path, title: str, style: str, body: Iterable[str]) -> Path:
    """Write a page whole, in a folder that is made where there is none. `style` is CSS, `body` the parts of it as HTML."""
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{style}</style></head><body>{''.join(body)}</body></html>\n"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, page.encode())
    return file
