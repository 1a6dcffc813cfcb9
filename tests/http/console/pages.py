"""Pages as a browser reads them: what they link to, what they hold, and what a strict policy forbids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import httpx2

from tests.http_server import Running


@dataclass
class Element:
    """A start tag."""

    name: str
    attributes: dict[str, str]


@dataclass
class Html(HTMLParser):
    """A page, read."""

    elements: list[Element] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """All of its text, spaces joined."""
        return " ".join(" ".join(self.words).split())

    def all(self, element: str, /, **attributes: str) -> list[dict[str, str]]:
        """The attributes of the elements of a name that have these."""
        return [
            one.attributes
            for one in self.elements
            if one.name == element and all(one.attributes.get(key) == value for key, value in attributes.items())
        ]

    def __hash__(self) -> int:
        return id(self)


def read(text: str) -> Html:
    """A page's HTML, read."""
    page = Html()
    page.feed(text)
    page.close()
    return page


@dataclass
class Browser:
    """Asks a server for pages of the console, with the headers that a browser sends."""

    running: Running
    key: str | None = None

    def _send(self, method: str, path: str, **more: Any) -> httpx2.Response:
        headers = dict(more.pop("headers", {}))
        if self.key is not None:
            headers["cookie"] = f"softprompt_key={self.key}"
        try:
            return self.running.http.request(method, f"{self.running.url}/console{path}", headers=headers, **more)
        finally:
            self.running.http.cookies.clear()  # each browser has its own key

    def get(self, path: str = "", **more: Any) -> httpx2.Response:
        """A page."""
        return self._send("GET", path, **more)

    def page(self, path: str = "", status: int = 200) -> Html:
        """A page, read; it must come with this status."""
        answer = self.get(path)
        assert answer.status_code == status, answer.text
        return read(answer.text)

    def post(self, path: str, data: Mapping[str, Any] | None = None, **more: Any) -> httpx2.Response:
        """A form that is sent from one of the server's own pages."""
        headers = {"origin": self.running.url} | dict(more.pop("headers", {}))
        return self._send("POST", path, data=data, headers=headers, **more)
