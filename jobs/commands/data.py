"""`flywheel data`: what a lake, and a person who knows `git`, would expect of its tables.

`TABLE@REF` is a table at a place in its history: a tag, a branch, a snapshot id or a moment with a
time zone. Without `@REF` it is what is current.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import track
from rich.table import Table

from flywheel.settings import Settings
from jobs.commands.common import console, refuse

if TYPE_CHECKING:
    import pyarrow as pa

    from resources.access import Reader
    from resources.lakehouse import At, Lakehouse

app = typer.Typer(
    help="Tables: their state, their history, and who looked at them.", no_args_is_help=True
)
Place = Annotated[str, typer.Argument(metavar="TABLE[@REF]", help="E.g. flights.departures@TAG.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the access log.")]

MOST_CELLS = 12  # columns of a sample that still fit a terminal


@app.command("list", epilog="Example: `flywheel data list flights`")
def list_tables(
    namespace: Annotated[str, typer.Argument(help="Only this domain.")] = "",
) -> None:
    """List the tables with rows, files, snapshots, tags and last change."""
    from resources.lakehouse import total_rows

    lakehouse = _lakehouse()
    table = Table("table", "rows", "files", "size", "snapshots", "tags", "last change", box=None)
    names = [n for n in lakehouse.names() if n.startswith(namespace)]
    if not names:
        refuse(f"there is no table {'in ' + namespace if namespace else 'yet'}")
    for name in names:
        one = lakehouse.table(name)
        current = one.current_snapshot()
        summary = current.summary.additional_properties if current and current.summary else {}
        tags = [n for n, ref in one.refs().items() if ref.snapshot_ref_type == "tag"]
        table.add_row(
            name, f"{total_rows(one):,}", summary.get("total-data-files", "0"),
            _size(int(summary.get("total-files-size", 0))), str(len(one.snapshots())),
            str(len(tags)), _when(current.timestamp_ms) if current else "",
        )  # fmt: skip
    console.print(table)


@app.command(epilog="Example: `flywheel data show flights.weather__quarantine --rows 5`")
def show(
    place: Place,
    rows: Annotated[int, typer.Option(help="Sample rows to show.")] = 10,
    reason: Reason = "",
) -> None:
    """Show a table: its columns, and a sample of its rows."""
    from resources.access import CLASSIFIED

    with _errors():
        lakehouse, name, at = _place(place)
        table = lakehouse.table(name)
        classified = json.loads(table.properties.get(CLASSIFIED, "{}"))
        columns = Table("column", "type", "required", "classified", "description", box=None)
        for field in table.schema().fields:
            columns.add_row(
                field.name, str(field.field_type), "yes" if field.required else "",
                classified.get(field.name, ""), field.doc or "",
            )  # fmt: skip
        schema, batches = _reader().batches(lakehouse, name, at, _purpose("show", reason))
        console.print(columns)
        console.print()
        sample = _first(schema, batches, rows)
        console.print(_rows(sample))


@app.command(epilog="Example: `flywheel data log flights.departures`")
def log(
    name: Annotated[str, typer.Argument(metavar="TABLE")],
    limit: Annotated[int, typer.Option(help="Newest snapshots to show.")] = 20,
) -> None:
    """Show the history of a table: every snapshot that is kept, its tags, and who made it."""
    from resources.lakehouse import PARTITION, RUN_ID
    from resources.maintenance import MAINTENANCE

    with _errors():
        table = _lakehouse().table(name)
        named: dict[int, list[str]] = {}
        for ref, held in table.refs().items():
            named.setdefault(held.snapshot_id, []).append(ref)
        lines = Table("snapshot", "when", "what", "rows", "partition", "run", "names", box=None)
        by_age = sorted(table.snapshots(), key=lambda s: s.timestamp_ms, reverse=True)
        for snapshot in by_age[:limit]:
            summary = snapshot.summary.additional_properties if snapshot.summary else {}
            operation = snapshot.summary.operation.value if snapshot.summary else ""
            lines.add_row(
                str(snapshot.snapshot_id), _when(snapshot.timestamp_ms),
                summary.get(MAINTENANCE, operation), summary.get("total-records", ""),
                summary.get(PARTITION, ""), summary.get(RUN_ID, "")[:8],
                ", ".join(sorted(named.get(snapshot.snapshot_id, []))),
            )  # fmt: skip
        console.print(lines)
        if len(by_age) > limit:
            console.print(f"[dim]{len(by_age) - limit} older ones: --limit {len(by_age)}[/dim]")


@app.command(epilog="Example: `flywheel data diff flights.departures@flight_delay/2013-03-01`")
def diff(
    before: Place,
    after: Annotated[str, typer.Argument(metavar="[@REF]", help="Default: what is current.")] = "",
    rows: Annotated[int, typer.Option(help="Rows to show of each kind.")] = 5,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 1 if they differ.")] = False,
    reason: Reason = "",
) -> None:
    """Show which rows were added, removed and changed between two states of a table."""
    from flywheel.diff import diff as compare
    from resources.lakehouse import KEY

    with _errors():
        lakehouse, name, at = _place(before)
        later = _at(after.removeprefix("@")) if after else None
        reader, purpose = _reader(), _purpose("diff", reason)
        found = compare(
            reader.read(lakehouse, name, at, purpose),
            reader.read(lakehouse, name, later, purpose),
            lakehouse.table(name).properties[KEY].split(","),
        )
        for label, columns in (("new", found.new_columns), ("lost", found.lost_columns)):
            if columns:
                console.print(f"{label} columns: {', '.join(columns)}")
        kinds = (("added", found.added), ("removed", found.removed), ("changed", found.changed))
        console.print(", ".join(f"{table.num_rows:,} rows {label}" for label, table in kinds))
        if found.columns:
            console.print(
                "in columns: " + ", ".join(f"{c} ({n:,})" for c, n in found.columns.items())
            )
        for label, table in kinds:
            if table.num_rows and rows:
                console.print(f"\n[bold]{label}[/bold]")
                console.print(_rows(table.slice(0, rows)))
    if exit_code and not found.empty:
        raise typer.Exit(1)


@app.command(epilog="Example: `flywheel data checkout flights.departures@TAG --to ./march`")
def checkout(
    place: Place,
    to: Annotated[Path, typer.Option(help="Folder for the Parquet file.")],
    reason: Reason = "",
) -> None:
    """Write a table as it was into a Parquet file, with a note of where it came from."""
    import pyarrow.parquet as pq

    with _errors():
        lakehouse, name, at = _place(place)
        snapshot = lakehouse.current_snapshot(name) if at is None else lakehouse.resolve(name, at)
        schema, batches = _reader().batches(
            lakehouse, name, snapshot or None, _purpose("checkout", reason)
        )
        to.mkdir(parents=True, exist_ok=True)
        file, count = to / f"{name}.parquet", 0
        aside = file.with_suffix(".tmp")
        with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
            for batch in track(batches, "writing", console=console, transient=True):
                writer.write_batch(batch)
                count += batch.num_rows
        aside.replace(file)
        note = {"table": name, "ref": place, "snapshot_id": snapshot, "rows": count,
                "checked_out_at": datetime.now(UTC).isoformat()}  # fmt: skip
        file.with_suffix(".json").write_text(json.dumps(note, indent=1))
        console.print(f"{count:,} rows of {name} at snapshot {snapshot}: {file}", soft_wrap=True)


@app.command(epilog="Example: `flywheel data tag flights.departures before-the-correction`")
def tag(place: Place, label: Annotated[str, typer.Argument(metavar="TAG")]) -> None:
    """Name a state of a table. A tagged state is kept for good."""
    with _errors():
        lakehouse, name, at = _place(place)
        snapshot = lakehouse.tag(name, label, at)
        if not snapshot:
            refuse(f"{name} has no rows yet, so there is nothing to name")
        console.print(f"{label} is snapshot {snapshot} of {name}")


@app.command(epilog="Example: `flywheel data rollback flights.departures@before-the-correction`")
def rollback(
    place: Place,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Make an earlier state of a table the current one. Nothing is lost: it can be undone."""
    with _errors():
        lakehouse, name, at = _place(place)
        if at is None:
            refuse("say which state: TABLE@REF; `flywheel data log TABLE` lists them")
        was = lakehouse.current_snapshot(name)
        target = lakehouse.resolve(name, at)
        if not yes:
            typer.confirm(f"Make snapshot {target} of {name} current?", abort=True)
        lakehouse.rollback(name, target)
        console.print(
            f"{name} is at snapshot {target}. What was computed from it since is not: materialize "
            f"downstream of {name.replace('.', '/')} again.\n"
            f"Undo: flywheel data rollback {name}@{was}"
        )


@app.command(epilog="Example: `flywheel data check flights.departures`")
def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="[TABLE[@REF]]...")] = None,
) -> None:
    """Check whole tables against today's contracts. Exit code 1 if one is broken."""
    from assets.discovery import domains
    from flywheel.contract.sql import audit_history

    declared = {name: one for domain in domains() for name, one in domain.datasets.items()}
    lines = Table("table", "rows", "contract", box=None)
    sound = True
    with _errors():
        lakehouse = _lakehouse()
        places = names or [name for name in declared if lakehouse.exists(name)]
        for place in track(places, "checking", console=console, transient=True):
            name, _, ref = place.partition("@")
            if name not in declared:
                raise LookupError(f"no dataset is called {name}: there are {', '.join(declared)}")
            scan = lakehouse.scan(name, at=_at(ref) if ref else None)
            broken = audit_history(declared[name], scan.to_arrow_batch_reader())
            sound &= not broken
            verdict = "; ".join(map(str, broken)) or "kept"
            lines.add_row(place, f"{scan.count():,}", verdict, style="red" if broken else None)
    console.print(lines)
    if not sound:
        raise typer.Exit(1)


@app.command(epilog="Example: `flywheel data maintain flights.departures`")
def maintain(
    names: Annotated[list[str] | None, typer.Argument(metavar="[TABLE]...")] = None,
    keep: Annotated[int, typer.Option(help="Newest snapshots to keep, beside tagged ones.")] = 30,
    grace_hours: Annotated[float, typer.Option(help="Age of an orphaned file.")] = 24.0,
) -> None:
    """Compact, expire and clear up now; the nightly schedule does the same."""
    from datetime import timedelta

    from resources.maintenance import Policy
    from resources.maintenance import maintain as run

    with _errors():
        lakehouse = _lakehouse()
        policy = Policy(keep_snapshots=keep, grace=timedelta(hours=grace_hours))
        lines = Table("table", "files", "snapshots", "stored files", "stored", box=None)
        for name in track(names or lakehouse.names(), "upkeep", console=console, transient=True):
            done = run(lakehouse, name, policy)
            pairs = (
                (str(done.before.files), str(done.after.files)),
                (str(done.before.snapshots), str(done.after.snapshots)),
                (str(done.before.stored_files), str(done.after.stored_files)),
                (_size(done.before.stored_bytes), _size(done.after.stored_bytes)),
            )
            lines.add_row(name, *(a if a == b else f"{a} → {b}" for a, b in pairs))
        console.print(lines)


@app.command(epilog="Example: `flywheel data access --limit 50`")
def access(limit: Annotated[int, typer.Option(help="Newest entries to show.")] = 20) -> None:
    """Show who read classified columns, in which role and what for."""
    from resources.access import LOG

    lakehouse = _lakehouse()
    if not lakehouse.exists(LOG):
        console.print("nobody has read a classified column yet")
        return
    rows = lakehouse.read(LOG)
    newest = rows.take(list(reversed(range(max(rows.num_rows - limit, 0), rows.num_rows))))
    console.print(_rows(newest.drop_columns(["access_id"])))


def _lakehouse() -> Lakehouse:
    from resources.build import default_resources

    return default_resources(Settings())["lakehouse"]


def _reader() -> Reader:
    from resources.access import Reader

    return Reader.from_settings(Settings())


def _place(text: str) -> tuple[Lakehouse, str, At | None]:
    """Lakehouse, table and place of `TABLE[@REF]`."""
    name, _, ref = text.partition("@")
    if "." not in name:
        raise LookupError(f"{name!r} is no table: write domain.table, e.g. flights.departures")
    return _lakehouse(), name, _at(ref) if ref else None


def _at(ref: str) -> At:
    """A reference as the lakehouse takes it: an id, a moment, or else a name."""
    if ref.isdigit():
        return int(ref)
    try:
        return datetime.fromisoformat(ref) if "T" in ref else ref
    except ValueError:
        return ref


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what a person can mend into one red line and exit code 1."""
    from resources.access import AccessError

    try:
        yield
    except (LookupError, AccessError) as error:
        refuse(str(error))


def _purpose(command: str, reason: str) -> str:
    return f"{command}: {reason}" if reason else command


def _first(schema: pa.Schema, batches: Iterator[Any], count: int) -> pa.Table:
    """The first rows of a stream; the rest is not read."""
    import pyarrow as pa

    taken: list[pa.RecordBatch] = []
    missing = count
    for batch in batches:
        taken.append(batch.slice(0, missing))
        missing -= taken[-1].num_rows
        if missing <= 0:
            break
    return pa.Table.from_batches(taken, schema)


def _rows(table: pa.Table) -> Table:
    """Rows for a terminal; columns beyond the first dozen are named below.

    What a quarantine says of a row comes first.
    """
    names = sorted(table.column_names, key=lambda name: not name.startswith("quarantine"))
    shown, hidden = names[:MOST_CELLS], names[MOST_CELLS:]
    caption = f"not shown: {', '.join(hidden)}" if hidden else None
    lines = Table(box=None, caption=caption, caption_justify="left")
    for name in shown:
        lines.add_column(name, overflow="fold")
    for row in table.select(shown).to_pylist():
        lines.add_row(*(_cell(value) for value in row.values()))
    return lines


def _cell(value: Any) -> str:
    """A value for a terminal; instants in UTC, to the second."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _when(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
