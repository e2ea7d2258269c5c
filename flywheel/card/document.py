"""What a page consists of, whatever it is rendered to: sections of sentences, tables, pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from flywheel.card.facts import CardError

PICTURE = re.compile(r"!\[([^\]]*)\]\((data:image/png;base64,[A-Za-z0-9+/]+={0,2})\)")

NOTHING = "–"  # noqa: RUF001  (an en dash stands for what is not defined)


@dataclass(frozen=True)
class Cell:
    """One value of a table.

    Attributes:
        text: The value; empty for none.
        kind: How it is shown: `number` to the right, `code` in a fixed width, `pass` and `fail` as
            marks.
        note: What is added in small letters.
        url: Where a `link` leads.
    """

    text: str
    kind: Literal["text", "number", "code", "pass", "fail", "link"] = "text"
    note: str = ""
    url: str = ""


@dataclass(frozen=True)
class Text:
    """A sentence or several, or a `title`; `missing` if they say that something is not known."""

    text: str
    tone: Literal["plain", "title", "missing", "warning"] = "plain"
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Bullets:
    """Sentences, a line each."""

    items: Sequence[str]
    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Table:
    """Rows under a head; a page may fold it away behind its title.

    Attributes:
        head: Names of the columns; empty for a list of names and values.
        rows: As many cells each as the head has.
        title: What it shows; empty if the section says it.
        folded: Whether it is closed at first.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    folded: bool = False
    kind: ClassVar[str] = "table"

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether it holds numbers."""
        return [
            any(row[place].kind == "number" for row in self.rows) for place in range(self.width)
        ]

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.head) or 2


@dataclass(frozen=True)
class Picture:
    """An embedded PNG."""

    alternative: str
    data: str

    @classmethod
    def of(cls, markdown: str) -> Picture:
        """The picture of a Markdown image as `flywheel.plots` makes it.

        Raises:
            CardError: It is none, or is not embedded.
        """
        found = PICTURE.fullmatch(markdown)
        if found is None:
            raise CardError(
                f"{markdown[:60]!r}... is no embedded PNG: plots come as flywheel.plots makes them"
            )
        return cls(found[1], found[2])


@dataclass(frozen=True)
class Gallery:
    """Pictures beside each other."""

    pictures: Sequence[Picture]
    kind: ClassVar[str] = "gallery"


Block = Text | Bullets | Table | Gallery


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Its name within the page."""
        return self.title.lower().replace(" ", "-")


def number(value: float | None, form: str = ".4f", note: str = "") -> Cell:
    """A number as a cell; a dash for None and NaN."""
    if value is None or value != value:
        return Cell(NOTHING, "number")
    return Cell(format(value, form), "number", note)


def code(text: str) -> Cell:
    """A name or a hash as a cell; a dash for none."""
    return Cell(text, "code") if text else Cell(NOTHING)


def facts(*pairs: tuple[str, Cell], title: str = "") -> Table:
    """Names and values as a table without a head."""
    return Table((), [(Cell(name), cell) for name, cell in pairs], title)


def missing(sentence: str) -> Text:
    """Says what is not known, and what would make it known."""
    return Text(sentence, "missing")


def plural(count: int, noun: str) -> str:
    """`1 gate`, `2 gates`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
