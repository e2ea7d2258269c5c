"""What a card says, in the order in which it is read: use, results, inputs, making.

What is not known is said in a sentence: an empty place would look like an oversight of the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flywheel.card.document import (
    Block,
    Bullets,
    Cell,
    Gallery,
    Picture,
    Section,
    Table,
    Text,
    code,
    facts,
    missing,
    number,
    plural,
)
from flywheel.card.facts import Card, Field, Provenance
from flywheel.card.results import calibration, decisions, scores, subgroups, verdicts
from flywheel.story import Hardware, Usage

NOT_EVALUATED = "It has not been evaluated yet, so nothing is known about how good it is."


def sections(card: Card) -> list[Section]:
    """The whole card but its title."""
    return [
        Section("Use", list(_use(card))),
        *_results(card),
        Section("Inputs", list(_inputs(card))),
        Section("Training", list(_training(card))),
        Section("Reproducibility", list(_reproducibility(card.made))),
        Section("Further reading", list(_links(card))),
    ]


def _use(card: Card) -> Iterator[Block]:
    declared = card.declared
    yield (
        Text(declared.intended_use)
        if declared.intended_use.strip()
        else missing("Nobody has said what it is for: see intended_use of the ModelSpec.")
    )
    if declared.limits:
        yield Text("What it is not for, and what it does badly:")
        yield Bullets(declared.limits)
    else:
        yield missing("Nobody has said what it must not be used for: see limits of the ModelSpec.")


def _results(card: Card) -> list[Section]:
    found = card.evaluation
    pictures = [Picture.of(one) for one in card.plots]
    shown: Block = Gallery(pictures) if pictures else missing("No pictures were drawn.")
    if found is None:
        results = [missing(NOT_EVALUATED), *([shown] if pictures else [])]
        return [Section("Results", results)]
    return [
        Section("Gates", list(verdicts(found))),
        Section("Scores", list(scores(found))),
        Section("Pictures", [shown]),
        Section("Subgroups", list(subgroups(found))),
        Section("Calibration", list(calibration(found))),
        Section("Decisions", list(decisions(found))),
    ]


def _inputs(card: Card) -> Iterator[Block]:
    declared = card.declared
    inputs = declared.inputs
    classified = [one.name for one in (*inputs, *declared.request) if one.classification]
    numbers = sum(one.dtype == "number" for one in inputs)
    yield Text(
        f"A request has {plural(len(declared.request), 'field')}; the model sees "
        f"{plural(len(inputs), 'input')}, {numbers} of them numbers. "
        + (
            f"Classified as personal or sensitive: {', '.join(dict.fromkeys(classified))}."
            if classified
            else "None of them is classified as personal or sensitive."
        )
    )
    yield _fields("What a client sends", declared.request, sourced=False)
    yield _fields("What the model sees", inputs, folded=len(inputs) > 12)
    yield Table(
        ("tensor", "type and shape", "meaning"),
        [(code(one.name), Cell(one.dtype), Cell(one.description)) for one in declared.tensors],
        title="Tensors of the ONNX file",
    )


def _fields(
    title: str, fields: Sequence[Field], *, sourced: bool = True, folded: bool = False
) -> Table:
    return Table(
        ("name", "type", *(("source",) if sourced else ()), "meaning", "if missing", "classified"),
        [
            (
                code(one.name),
                Cell(one.dtype),
                *((code(one.source),) if sourced else ()),
                Cell(one.description),
                Cell(one.missing),
                Cell(one.classification or "no"),
            )
            for one in fields
        ],
        title=title,
        folded=folded,
    )


def _training(card: Card) -> Iterator[Block]:
    made, declared = card.made, card.declared
    start, held_out, last = card.window
    yield facts(
        ("made on the morning of", Cell(made.as_of.isoformat())),
        ("trained on", Cell(f"{start} up to {held_out}, that day not included")),
        ("held out", Cell(f"{held_out} to {last}, {plural(declared.holdout_days, 'day')}")),
        ("cases trained on", number(made.training_rows, ",")),
        ("trainer", code(declared.trainer)),
        ("owner", Cell(declared.owner)),
    )
    if made.usage is None:
        yield missing("What the training took was not measured.")
    else:
        yield _usage(made.usage)
    if made.parameters:
        yield Table(
            ("parameter", "value"),
            [(code(name), code(str(value))) for name, value in made.parameters.items()],
            title="Parameters",
            folded=True,
        )
    else:
        yield missing("Its parameters were not recorded.")


def _usage(usage: Usage) -> Table:
    price = f"{usage.cpu_hour_price:g} a core and hour"
    return facts(
        ("time taken", Cell(duration(usage.wall_seconds))),
        ("CPU time", Cell(duration(usage.cpu_seconds), note="with child processes")),
        ("estimated cost", Cell(f"{usage.cost:.2g}", note=f"at {price}, CPU only")),
    )


def _reproducibility(made: Provenance) -> Iterator[Block]:
    yield facts(
        ("commit", code(made.commit)),
        ("ONNX file, SHA-256", code(made.onnx_sha256)),
        ("environment, SHA-256", code(made.environment)),
    )
    if made.commit.endswith("-dirty"):
        yield Text(
            "Files differed from the commit when it was trained: the commit alone does not "
            "reproduce it.",
            "warning",
        )
    if made.commit in ("", "unknown"):
        yield missing("It was trained outside of git, so the state of the code is not known.")
    if not made.environment:
        yield missing("The installed packages were not recorded.")
    if made.snapshots:
        yield Table(
            ("table", "Iceberg snapshot"),
            [(code(name), code(str(snapshot))) for name, snapshot in made.snapshots.items()],
            title="Data as it was read",
        )
    else:
        yield missing("The snapshots of the data it read were not recorded.")
    if made.hardware is None:
        yield missing("The machine was not recorded.")
    else:
        yield _machine(made.hardware)


def _machine(one: Hardware) -> Table:
    return facts(
        ("processor", Cell(f"{one.cpu} ({one.architecture})")),
        ("cores that it could use", Cell(f"{one.cores:g}")),
        ("memory", Cell(f"{one.memory_bytes / 2**30:.1f} GiB")),
        ("accelerator", Cell(one.accelerator or "none")),
        ("system", Cell(one.system)),
        title="Machine",
    )


def _links(card: Card) -> Iterator[Block]:
    if card.links:
        yield facts(*((one.text, Cell(one.url, "link", url=one.url)) for one in card.links))
    else:
        yield missing("No links were given.")


def duration(seconds: float) -> str:
    """A time as one would say it: `0.42 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
