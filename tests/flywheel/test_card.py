"""A card says what is known of a version and what is not, and no text on it can break it."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from datetime import date
from functools import lru_cache
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from assets.flights.flight_delay import FLIGHT_DELAY
from flywheel.card import Card, CardError, Declaration, Evaluation, Link, Provenance, html, markdown
from flywheel.card.document import Picture, Table
from flywheel.card.sections import duration, sections
from flywheel.evidence import ALL
from tests.flywheel.card_cases import SPEC, full

BARE = Card(
    declared=replace(Declaration.of(SPEC), intended_use=" ", limits=()),
    version="1",
    made=Provenance(date(2024, 3, 1), "shop.returns_training_set", {}, "unknown", "ab" * 32, {}),
)


class Page(HTMLParser):
    """The tags of a page with their attributes' names, and its visible texts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.structure: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.structure.append(" ".join([tag, *(name for name, _ in attrs)]))
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        self.structure.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(" ".join(data.split()))


def parsed(text: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """Header, token types and texts of a Markdown card, as CommonMark with tables reads it."""
    found = re.match(r"\A---\n(.*?\n)---\n", text, re.DOTALL)
    assert found
    structure: list[str] = []
    texts: list[str] = []

    def walk(tokens: list[Token]) -> None:
        for token in tokens:
            # What is safe between backticks stands between them, all else is plain text.
            if token.type in ("text", "code_inline", "text_special"):
                texts.append(token.content)
            else:
                structure.append(token.type)
                texts.append("\n")
                walk(token.children or [])

    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    walk(reader.parse(text[found.end() :]))
    joined = [line.strip() for line in "".join(texts).split("\n")]
    return yaml.safe_load(found[1]), structure, [line for line in joined if line]


def shown(card: Card) -> list[str]:
    """Every text that both forms of a card must show, but those that are parts of a sentence."""
    found = [card.declared.description]
    for section in sections(card):
        found.append(section.title)
        for block in section.blocks:
            if isinstance(block, Table):
                found += [*block.head, block.title]
                found += [text for row in block.rows for c in row for text in (c.text, c.note)]
            else:
                found += [getattr(block, "text", ""), *getattr(block, "items", ())]
    return [text for text in found if text]


@pytest.mark.parametrize("card", [full(), BARE], ids=["full", "bare"])
def test_both_forms_say_everything(card: Card) -> None:
    page = " ".join(Page(html(card)).texts)
    text = " ".join(parsed(markdown(card))[2])
    told = shown(card)
    assert len(told) > 60
    for one in told:
        assert one in page
        assert one in text


def test_the_card_has_the_figures_gates_and_origins_of_the_version() -> None:
    card = full()
    assert card.evaluation
    text = markdown(card)
    auc = next(f for f in card.evaluation.figures if f.slice_column == ALL and f.metric == "auc")
    assert f"{auc.value:.4f} ({auc.low:.4f} to {auc.high:.4f})" in text
    for verdict in card.evaluation.verdicts:
        assert f"| {verdict.sentence} |" in text
    assert "champion (version 1)" in text
    assert f"| `{card.made.onnx_sha256}` |" in text
    assert "| `shop.orders` | `8127364981` |" in text
    assert "2024-01-02 up to 2024-02-23, that day not included" in text
    assert "2024-02-23 to 2024-02-29, 7 days" in text
    for carrier in ("DHL", "UPS", "post"):
        assert re.search(rf"^\| {carrier} \| \d+ \|", text, re.MULTILINE)


def test_the_header_is_a_model_index_with_the_scores_and_the_state_of_the_data() -> None:
    card = full()
    assert card.evaluation
    header = parsed(markdown(card))[0]
    (index,) = header["model-index"]
    (result,) = index["results"]
    assert index["name"] == "returns"
    assert result["dataset"] == {
        "name": "shop.returns_training_set",
        "type": "shop.returns_training_set",
        "split": "holdout",
        "revision": "4711",
    }
    scores = {one["type"]: one["value"] for one in result["metrics"]}
    assert scores["roc_auc"] == card.evaluation.overall("auc")
    assert scores["log_loss"] == card.evaluation.overall("log_loss")
    assert header["flywheel"]["snapshots"] == card.made.snapshots
    assert header["datasets"] == [*card.made.snapshots]


def test_a_version_that_was_not_evaluated_claims_no_scores() -> None:
    assert "model-index" not in parsed(markdown(BARE))[0]


def test_what_is_not_known_is_said_in_a_sentence() -> None:
    text = markdown(BARE)
    for sentence in (
        "Nobody has said what it is for",
        "Nobody has said what it must not be used for",
        "It has not been evaluated yet",
        "No gate has judged it",
        "What the training took was not measured",
        "Its parameters were not recorded",
        "It was trained outside of git",
        "The installed packages were not recorded",
        "The snapshots of the data it read were not recorded",
        "The machine was not recorded",
        "No links were given",
    ):
        assert sentence in text


def test_an_evaluation_says_what_it_lacks() -> None:
    found = full().evaluation
    assert found
    alone = [f for f in found.figures if (f.contestant, f.slice_column) == ("candidate", ALL)]
    text = markdown(replace(full(), evaluation=Evaluation(alone), plots=()))
    for sentence in (
        "There was no champion yet",
        "No baselines are declared",
        "No slices are declared",
        "What mistakes cost is not declared",
        "The bins were not recorded",
        "No gate has judged it",
        "No pictures were drawn",
    ):
        assert sentence in text
    for sentence in ("There was no champion yet", "No baselines", "No slices", "No gate"):
        assert sentence not in markdown(full())


def test_a_commit_with_changes_beside_it_is_a_warning() -> None:
    dirty = replace(BARE, made=replace(BARE.made, commit="09572ef-dirty"))
    assert 'class="warning">Files differed from the commit' in html(dirty)
    assert "outside of git" not in html(dirty)


def test_a_gate_that_holds_it_back_is_named_at_the_top() -> None:
    found = full().evaluation
    assert found
    failed = replace(found.verdicts[0], passed=False)
    held = replace(full(), evaluation=replace(found, verdicts=[failed, *found.verdicts[1:]]))
    assert re.search(r'class="mark fail">Held back by [^<]*at_least\(auc\)', html(held))
    passed = [replace(one, passed=True) for one in found.verdicts]
    assert "**Passed 4 gates.**" in markdown(
        replace(full(), evaluation=replace(found, verdicts=passed))
    )


def test_small_subgroups_beyond_the_first_are_summed_up() -> None:
    found = full().evaluation
    assert found
    (column,) = {f.slice_column for f in found.figures} - {ALL}
    one = [f for f in found.figures if f.slice_column == column and f.slice_value == "DHL"]
    many = [replace(f, slice_value=f"c{place}", rows=9) for place in range(30) for f in one]
    text = markdown(replace(full(), evaluation=replace(found, figures=[*found.figures, *many])))
    assert "Left out: 13 smaller subgroups, 117 cases together." in text


def test_every_input_of_the_reference_model_has_a_meaning() -> None:
    declared = Declaration.of(FLIGHT_DELAY)
    assert [one.name for one in declared.inputs] == [one.name for one in FLIGHT_DELAY.inputs]
    assert [one.name for one in declared.inputs if len(one.description) < 5] == []
    assert declared.intended_use
    assert len(declared.limits) >= 3
    classified = {one.name: one.classification for one in declared.request if one.classification}
    assert classified == {"tailnum": "sensitive"}


def test_inputs_say_what_becomes_of_missing_values() -> None:
    found = {one.name: one for one in Declaration.of(SPEC).inputs}
    assert found["amount"].missing == "seen as missing"
    assert found["carrier"].missing == "seen as unknown"
    assert found["hour"].missing == "becomes 12"
    assert found["history__returns_7d"].description == "Orders sent back in the last 7 days."
    assert found["history__age"].description == "Minutes since the row of history became true."


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = Page(html(full()))
    links = [one.url for one in full().links]
    outside = [a for a in page.addresses if not a.startswith(("#", "data:image/png;base64,"))]
    assert outside == links
    assert sum(address.startswith("data:") for address in page.addresses) == 3
    assert not {"script", "link", "iframe"} & {tag.split()[0] for tag in page.structure}
    assert "@import" not in html(full())


@pytest.mark.parametrize(
    "plot", ["![x](https://elsewhere.example/x.png)", "no picture", '![x](data:image/png;base64,"']
)
def test_a_plot_that_is_no_embedded_picture_is_refused(plot: str) -> None:
    with pytest.raises(CardError, match="no embedded PNG"):
        html(replace(full(), plots=[plot]))


def test_a_picture_is_read_back_from_markdown() -> None:
    assert Picture.of("![cost](data:image/png;base64,AAA=)") == Picture(
        "cost", "data:image/png;base64,AAA="
    )


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "/relative", "https://a b", "http://a>b"]
)
def test_a_link_that_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(CardError, match="no http or https address"):
        Link("run", url)


def test_figures_of_another_version_are_refused() -> None:
    with pytest.raises(CardError, match="'candidate', but of nobody"):
        Evaluation([])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.423, "0.42 s"),
        (12.4, "12 s"),
        (59.7, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_told_as_one_would(seconds: float, text: str) -> None:
    assert duration(seconds) == text


MARK = "Zqx"


def brief() -> Card:
    """A card with every kind of block, but few rows and no pictures: it is rendered often."""
    found = full().evaluation
    assert found
    assert found.thresholds
    return replace(
        full(),
        plots=(),
        evaluation=replace(
            found,
            figures=[f for f in found.figures if f.slice_value in (ALL, "DHL", "UPS")],
            thresholds=replace(found.thresholds, rows=found.thresholds.rows[:2]),
        ),
    )


def everywhere(value: Any, text: str) -> Any:
    """A copy of a card with a text from outside in every place that takes one."""
    kept = {"contestant", "metric", "plots", "url", "kind", "source", "candidate", "slice_column"}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed: dict[str, Any] = {}
    for field in fields(value):
        old = getattr(value, field.name)
        if field.name in kept or not field.init:
            continue
        if isinstance(old, str):
            changed[field.name] = old if old == ALL else f"{text}{old}"
        elif field.name in ("snapshots", "parameters"):
            changed[field.name] = {f"{text}{name}": number for name, number in old.items()}
        elif isinstance(old, list | tuple):
            new = [f"{text}{x}" if isinstance(x, str) else everywhere(x, text) for x in old]
            changed[field.name] = new
        else:
            changed[field.name] = everywhere(old, text)
    return replace(value, **changed)


NASTY = [
    "<script>alert(1)</script>", "</td></table><h1>", "<!--", "]]>", "&lt;b&gt; &amp; &copy;",
    "a | b", "\\|", "trailing\\", "`code` ``", "![x](javascript:alert(1))", "[x](http://y)",
    "[x]: http://y", "# heading", "- item", "1. item", "10) item", "+ item", "---", "===", "> x",
    "***", "___", "__init__ _x_ *y*", "~~gone~~", "$x$", "<http://auto.link>", "{{ 7 * 7 }}",
    "{% raw %}", "line\nbreak\n\n---\n\n# x", "'\"", "</style><style>", "|---|---|", "\t\ttab",
    "a\u2028b", "\x85", "x\x00y", "\u202egnp", "émoji 🛫", "key: value", "? x", "%YAML", "...",
    "-0.5", "no", "&", "\ufeff",
]  # fmt: skip


@lru_cache(maxsize=1)
def usual() -> tuple[Page, tuple[dict[str, Any], list[str], list[str]]]:
    """Page and Markdown of a card with a harmless word in every place."""
    plain = everywhere(brief(), f"{MARK} ")
    return Page(html(plain)), parsed(markdown(plain))


def printable(text: str) -> str:
    """A text as one line; what cannot be shown is the replacement character."""
    return re.sub("[\x00-\x1f\x7f-\x9f\ufeff\ufffe\uffff]", "\ufffd", " ".join(text.split()))


def check_that_it_means_itself(text: str) -> None:
    """The text stands wherever the harmless word stood, and the structure is the same."""
    usual_page, (usual_header, usual_structure, usual_texts) = usual()
    card = everywhere(brief(), f"{text} ")
    page = Page(html(card))
    assert page.structure == usual_page.structure
    assert page.texts == [printable(one.replace(MARK, text)) for one in usual_page.texts]
    header, structure, texts = parsed(markdown(card))
    assert structure == usual_structure
    assert texts == [printable(one.replace(MARK, text)) for one in usual_texts]
    assert header["model_name"] == printable(f"{text} returns")
    assert header.keys() == usual_header.keys()


@pytest.mark.parametrize("text", NASTY)
def test_mark_up_from_outside_means_itself(text: str) -> None:
    if text.strip():
        check_that_it_means_itself(text)
    check_that_it_means_itself(f"x{text}x")


@given(st.lists(st.sampled_from(NASTY) | st.text(max_size=20), min_size=1, max_size=3))
@settings(deadline=None, max_examples=40)
def test_no_text_from_outside_breaks_either_form(parts: list[str]) -> None:
    text = "".join(parts)
    assume(text.strip())
    check_that_it_means_itself(text)
