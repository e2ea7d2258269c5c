"""The model card of a version, from its story and its evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date

from assets.lifecycle.names import Lifecycle
from assets.lifecycle.scored import Scored
from assets.lifecycle.story import read_story
from flywheel.card import (
    Card,
    Declaration,
    Evaluation,
    Link,
    Provenance,
    ThresholdTable,
    html,
    markdown,
)
from flywheel.evidence import BIN, THRESHOLD, Figure, StoredVerdict
from flywheel.story import Hardware, Usage
from resources.registry import Registry, Version

CARD_FOLDER, CARD_PAGE, CARD_TEXT = "card", "model_card.html", "model_card.md"


def card_of(
    life: Lifecycle,
    version: Version,
    registry: Registry,
    recent: Scored,
    figures: Sequence[Figure],
    verdicts: Sequence[StoredVerdict],
    champion: str | None,
) -> Card:
    """The card of a version, without pictures yet.

    Args:
        life: The model.
        version: The candidate.
        registry: Has its bundle.
        recent: The newest held-out cases, scored.
        figures: What is known of them.
        verdicts: What the gates said.
        champion: Version that it was compared with; None while there was none.
    """
    from flywheel.evaluation import calibration
    from flywheel.thresholds import best_threshold, threshold_table

    spec = life.spec
    story = read_story(registry, version)
    label, said = recent.cases.label, recent.cases.candidate
    return Card(
        declared=Declaration.of(spec),
        version=version.number,
        made=Provenance(
            as_of=date.fromisoformat(story["as_of"]),
            training_set=life.table("training_set"),
            snapshots=story["input_snapshots"],
            commit=story["git_commit"],
            onnx_sha256=story["onnx_sha256"],
            parameters=story["parameters"],
            training_rows=story["metrics"]["training_rows"],
            environment=story["environment"],
            hardware=Hardware(**story["hardware"]),
            usage=Usage(story["wall_seconds"], story["cpu_seconds"], story["cpu_hour_price"]),
        ),
        evaluation=Evaluation(
            figures=[one for one in figures if one.slice_column not in (THRESHOLD, BIN)],
            verdicts=[one.verdict for one in verdicts],
            champion=champion,
            calibration=calibration(label, said),
            thresholds=ThresholdTable(
                spec.costs,
                threshold_table(label, said, spec.costs),
                best_threshold(label, said, spec.costs),
            ),
            threshold=spec.costs.calibrated_threshold,
        ),
    )


def log_card(
    registry: Registry, version: Version, card: Card, plots: Mapping[str, str], run_url: str
) -> str:
    """Keep the card with its pictures in the version's own run, as a page and as Markdown.

    Returns:
        The page's address in the MLflow UI.
    """
    whole = replace(
        card, plots=tuple(plots.values()), links=(Link("MLflow run of the evaluation", run_url),)
    )
    run = registry.run_of(version)
    run.client.log_text(run.run_id, html(whole), f"{CARD_FOLDER}/{CARD_PAGE}")
    run.client.log_text(run.run_id, markdown(whole), f"{CARD_FOLDER}/{CARD_TEXT}")
    page = f"{registry.run_url(run)}/artifacts/{CARD_FOLDER}/{CARD_PAGE}"
    registry.describe(version, f"{card.declared.description}\n\n[Model card]({page})")
    return page


def text_of(card: Card) -> str:
    """The card as Markdown without the YAML that it begins with: the UI would show it as text."""
    return markdown(card).split("\n---\n", 1)[-1].lstrip()
