"""`flywheel push`: feature rows to the online store as they happen, as lines of JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flywheel.settings import Settings
from jobs.commands.common import console, refuse

if TYPE_CHECKING:
    import pyarrow as pa

    from flywheel.dataset import Dataset

MOST_REASONS = 5


def push(
    view: Annotated[str, typer.Argument(help="E.g. flights.carrier_delays.")],
    rows: Annotated[Path, typer.Argument(help="JSON lines; - reads standard input.")],
) -> None:
    """Write feature rows to the online store; an older row never replaces a newer one.

    A line has the join keys, the features and `event_timestamp` (with an offset); without
    `created_timestamp` the row counts as known when it happened. If one line breaks the view's
    contract nothing is written, and the exit code is 1.
    """
    from assets.discovery import domains
    from assets.lifecycle.online import views_of
    from flywheel.contract.validation import validate
    from flywheel.dataset import SchemaError
    from resources.build import default_resources

    views = {
        f"{domain.name}.{name}": (domain, one)
        for domain in domains()
        for name, one in views_of(domain).items()
    }
    if view not in views:
        refuse(f"no feature view is called {view}: there are {', '.join(views)}", code=2)
    domain, declared = views[view]
    try:
        table = declared.dataset.conform(_read(rows, declared.dataset))
    except (SchemaError, ValueError, OSError) as error:
        refuse(str(error))
    checked = validate(declared.dataset, table)
    if checked.quarantined.num_rows:
        reasons = checked.quarantined.column("quarantine_reason").to_pylist()
        refuse(
            f"{len(reasons)} of {table.num_rows} rows break the contract of {view}, and nothing "
            "was written: " + "; ".join(", ".join(one) for one in reasons[:MOST_REASONS])
        )
    store = default_resources(Settings())["feature_store"]
    store.apply(domain.name, [declared])
    written = store.push(domain.name, declared, checked.clean.to_pylist())
    console.print(
        f"{written} of {table.num_rows} rows of {view} are online; the others were older than what "
        "is there, or than another row of their entity"
        if written < table.num_rows
        else f"{written} rows of {view} are online"
    )


def add_to(app: typer.Typer) -> None:
    """Make the command part of an application."""
    app.command(epilog="Example: `flywheel push flights.carrier_delays rows.jsonl`")(push)


def _read(rows: Path, dataset: Dataset) -> pa.Table:
    """JSON lines as a table with the dataset's columns.

    Raises:
        ValueError: A line is not a JSON object, or a value does not have its column's type.
    """
    from datetime import datetime

    import msgspec
    import pyarrow as pa

    instant = Annotated[datetime, msgspec.Meta(tz=True)]
    text = sys.stdin.read() if str(rows) == "-" else rows.read_text()
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            lines.append(msgspec.json.decode(line, type=dict))
        except msgspec.DecodeError as error:
            raise ValueError(f"line {number} is not a JSON object: {error}") from error
    for line in lines:
        line.setdefault("created_timestamp", line.get("event_timestamp"))
    names = dict.fromkeys(name for line in lines for name in line) or dataset.schema.names
    columns = {}
    for name in names:
        values = [line.get(name) for line in lines]
        known = name in dataset.schema.names
        try:
            if known and pa.types.is_timestamp(dataset.schema.field(name).type):
                values = [
                    value if value is None else msgspec.convert(value, type=instant)
                    for value in values
                ]
            columns[name] = pa.array(values, dataset.schema.field(name).type if known else None)
        except (pa.ArrowInvalid, pa.ArrowTypeError, msgspec.ValidationError) as error:
            raise ValueError(f"{name}: {error}") from error
    return pa.table(columns)
