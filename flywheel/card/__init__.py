"""Model cards: what a version is, what it is for, how good it is for whom, and how it was made.

`facts` is what a card is made of, `sections` and `results` put it into words and tables
(`document`), and `render` makes Markdown and a web page of these. Nothing is looked up here:
whoever has the facts hands them in.
"""

from flywheel.card.facts import (
    Card,
    CardError,
    Declaration,
    Evaluation,
    Field,
    Link,
    Provenance,
    ThresholdTable,
)
from flywheel.card.render import html, markdown

__all__ = [
    "Card",
    "CardError",
    "Declaration",
    "Evaluation",
    "Field",
    "Link",
    "Provenance",
    "ThresholdTable",
    "html",
    "markdown",
]
