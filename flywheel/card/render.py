"""A card as Markdown with a YAML header, and as a web page that needs nothing else.

Text from outside (descriptions, names, values of categories) is escaped wherever a template puts
it: Jinja does so for the page, and for Markdown its `finalize` does. What a template may leave as
it is has been marked, here and nowhere else.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flywheel.card import results
from flywheel.card.document import Cell
from flywheel.card.facts import Card
from flywheel.card.sections import sections

if TYPE_CHECKING:
    from jinja2 import Environment

LIBRARY = "flywheel"

# Such a text means itself between backticks, in a table too.
PLAIN_CODE = re.compile(r"[A-Za-z0-9_.:/@+=,()\[\] -]*[A-Za-z0-9_.:/@+=,()\[\]-]")

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


class _Marked(str):
    """Markdown that is to be written as it is."""

    __slots__ = ()


def markdown(card: Card) -> str:
    """The card as Markdown; its header follows the Hugging Face hub's model index.

    Raises:
        CardError: A plot is no embedded picture.
    """
    page = _environment(escaping=False).get_template("card.md.jinja")
    return page.render(_context(card), header=_Marked(_header(card)))


def html(card: Card) -> str:
    """The card as one HTML document, styles and pictures included.

    Raises:
        CardError: A plot is no embedded picture.
    """
    return _environment(escaping=True).get_template("card.html.jinja").render(_context(card))


def _context(card: Card) -> dict[str, Any]:
    sentence, tone = results.verdict(card.evaluation)
    return {
        "card": card,
        "verdict": sentence,
        "tone": tone,
        "headline": results.headline(card.evaluation) if card.evaluation else [],
        "sections": sections(card),
    }


@lru_cache(maxsize=2)
def _environment(*, escaping: bool) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("flywheel.card"),
        autoescape=escaping,  # noqa: S701  (Markdown has its own: finalize)
        finalize=_tidy if escaping else _escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"markdown_cell": _markdown_cell, "marked": _Marked}
    return environment


def _tidy(value: Any) -> Any:
    """A text from outside as one line of printable characters; marked text as it is."""
    if type(value) is not str:
        return value
    return CONTROL.sub("\ufffd", " ".join(value.split()))


def _escape(value: Any) -> Any:
    """A text from outside as Markdown that means just that text, in a table too (GFM)."""
    if type(value) is not str:
        return value
    text = _tidy(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"[\\`*\[\]|~$]", r"\\\g<0>", text)
    # Between letters an underscore is no mark-up, and names stay readable.
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    # What starts a heading, a rule or a list where a line begins with it; a sign does not.
    return re.sub(r"^(?=[-+=#](?!\d)|\d+[.)](?!\d))(\d*)", r"\1\\", text)


def _markdown_cell(cell: Cell) -> _Marked:
    text = _escape(cell.text)
    if cell.kind == "code" and PLAIN_CODE.fullmatch(cell.text):
        text = f"`{cell.text}`"
    elif cell.kind == "link":
        text = f"[{text}](<{cell.url.replace('&', '&amp;')}>)"
    elif cell.kind == "fail":
        text = f"**{text}**"
    return _Marked(f"{text} ({_escape(cell.note)})" if cell.note else text)


def _header(card: Card) -> str:
    import yaml

    made, declared = card.made, card.declared
    known: dict[str, Any] = {
        "model_name": declared.model,
        "library_name": "onnx",
        "pipeline_tag": "tabular-classification",
        "tags": [LIBRARY, "onnx", "tabular-classification"],
        "datasets": [*made.snapshots],
        LIBRARY: {
            "version": card.version,
            "owner": declared.owner,
            "as_of": made.as_of.isoformat(),
            "commit": made.commit,
            "onnx_sha256": made.onnx_sha256,
            "environment_sha256": made.environment,
            "snapshots": dict(made.snapshots),
        },
    }
    if card.evaluation is not None:
        metrics = [
            {"type": kind, "name": title, "value": value}
            for name, (title, kind) in results.SCORES.items()
            if (value := card.evaluation.overall(name)) is not None
        ]
        table = made.training_set
        dataset = {"name": table, "type": table, "split": "holdout"}
        if table in made.snapshots:
            dataset["revision"] = str(made.snapshots[table])
        task = {"type": "tabular-classification", "name": declared.description}
        known["metrics"] = [one["type"] for one in metrics]
        known["model-index"] = [
            {
                "name": declared.model,
                "results": [{"task": task, "dataset": dataset, "metrics": metrics}],
            }
        ]
    return yaml.safe_dump(_tidied(known), sort_keys=False, allow_unicode=True, width=100)


def _tidied(value: Any) -> Any:
    """A header's values with every text tidied: PyYAML does not keep all line breaks apart."""
    if isinstance(value, dict):
        return {_tidy(name): _tidied(one) for name, one in value.items()}
    return [_tidied(one) for one in value] if isinstance(value, list) else _tidy(value)
