"""A page of HTML, taken apart."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "line", "rect", "circle", "polyline", "path", "wbr"}


class Page(HTMLParser):
    """Tags, texts (but of the head) and attributes in order, and the rows of tables. Every tag must be closed.

    The numbers of footnotes are kept apart: (text before it, number).
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.open: list[str] = []
        self.goes_on = False
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.footnotes: list[tuple[str, str]] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)
        self.goes_on = tag == "wbr"

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "sup" in self.open:
            self.footnotes.append((self.texts[-1], data))
            return
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        if self.goes_on:
            self.texts[-1] += data.strip()
        elif data.strip() and not {"style", "title"} & set(self.open):
            self.texts.append(data.strip())
        self.goes_on = False

    @property
    def text(self) -> str:
        """All of it, on one line."""
        return " ".join(" ".join(self.texts).split())
