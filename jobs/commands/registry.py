"""`flywheel history`, `explain`, `compare`, `promote`, `reject`, `rollback`: versions by hand."""

from __future__ import annotations

import getpass
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from flywheel.settings import Settings
from jobs.commands.common import console, life_of, readable_errors, refuse

if TYPE_CHECKING:
    from assets.lifecycle.names import Lifecycle
    from flywheel.history import Event
    from resources.ledger import Ledger

Model = Annotated[str, typer.Argument(help="E.g. flight_delay.")]
Number = Annotated[str, typer.Argument(metavar="VERSION", help="E.g. 2.")]
Why = Annotated[str, typer.Option(help="Why; kept for good.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def history(
    model: Model,
    limit: Annotated[int, typer.Option(help="Newest events to show.")] = 50,
    as_json: Json = False,
) -> None:
    """Show all that happened to a model's versions: trained, evaluated, decided, routed."""
    with readable_errors():
        life, ledger = _ledger(model)
        happened = list(_happened(life, ledger))
        if not happened:
            refuse(f"{model} has no history yet: materialize its training job")
    shown = sorted(happened, key=lambda one: one.at)[-limit:]
    if as_json:
        console.print_json(json.dumps([asdict(one) for one in shown], default=str))
        return
    table = Table("when (UTC)", "what", "version", "by", "because", box=None)
    for one in shown:
        table.add_row(f"{one.at:%Y-%m-%d %H:%M:%S}", one.what, one.version, one.by, one.because)
    console.print(table)


def explain(
    model: Model,
    at: Annotated[
        str, typer.Option(metavar="TIME", help="With an offset, e.g. 2026-05-04T14:03:00Z; now.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Say what served at a time, trained on what, by which commit, and why it was promoted.

    Exit code 1 if nothing served then.
    """
    from assets.lifecycle.explanation import explanation

    with readable_errors():
        moment = _moment(at)
        life, ledger = _ledger(model)
        told = explanation(life, ledger, moment)
    if told is None:
        refuse(f"nothing served {model} at {moment:%Y-%m-%d %H:%M:%S} UTC")
    if as_json:
        console.print_json(json.dumps(told, default=str))
        return
    console.print(f"[bold]{model}[/bold] at {moment:%Y-%m-%d %H:%M:%S} UTC")
    table = Table.grid(padding=(0, 2))
    for name, value in told.items():
        table.add_row(name, _plain(value))
    console.print(table)


def compare(
    model: Model,
    first: Annotated[str, typer.Argument(metavar="V1")],
    second: Annotated[str, typer.Argument(metavar="V2")],
    as_of: Annotated[
        str, typer.Option(help="Morning whose held-out cases to use; default the newest.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Score two versions on the same held-out cases now, and show how else they differ.

    Scores are computed anew, because those of two evaluations seldom are of the same cases.
    """
    from assets.lifecycle.comparison import compare_versions

    with readable_errors():
        life, ledger = _ledger(model)
        with console.status("scoring both ..."):
            found = compare_versions(life, ledger, first, second, as_of)
    if as_json:
        console.print_json(json.dumps(asdict(found), default=str))
        return
    for window in found.windows:
        console.print(
            f"[bold]{window.name}[/bold] holdout as of {found.as_of}: {window.rows:,} cases on "
            f"{window.days} days (95 % intervals over days; a positive gain is version {second}'s)"
        )
        table = Table("metric", f"version {first}", f"version {second}", "gain", box=None)
        for name, line in window.metrics.items():
            table.add_row(
                name, f"{line.first:.4f}", f"{line.second:.4f}",
                f"{line.gain:+.4f}  ({line.low:+.4f} to {line.high:+.4f})",
            )  # fmt: skip
        console.print(table)
        console.print()
    table = Table("differs", f"version {first}", f"version {second}", box=None)
    for name, (ours, theirs) in found.differences.items():
        table.add_row(name, _plain(ours), _plain(theirs))
    console.print(table if found.differences else "Nothing else differs.")
    for note in found.notes:
        console.print(note, style="yellow", soft_wrap=True, markup=False)


def promote(
    model: Model,
    version: Number,
    reason: Why,
    override: Annotated[
        bool, typer.Option("--override", help="Although gates said no; their words are kept.")
    ] = False,
    deploy: Annotated[bool, typer.Option(help="Also bring it behind the gateway.")] = True,
) -> None:
    """Make a version champion, and deploy it.

    Exit code 1 if the gates do not let it pass, or if it could not be deployed.
    """
    from assets.lifecycle import promotion
    from assets.lifecycle.release import deploy as deploy_version
    from resources.build import default_resources

    with readable_errors():
        life, ledger = _ledger(model)
        event = promotion.promote(life, ledger, version, _actor(), reason, override=override)
        if event:
            promotion.tell_dagster(life, ledger, event, _instance())
            console.print(f"version {version} of {model} is champion; before it: {event.previous}")
        else:
            console.print(f"version {version} of {model} is champion already")
        if deploy:
            serving = default_resources(Settings())["serving"]
            done = deploy_version(
                ledger, serving, ledger.registry.version(model, version), _actor(), reason
            )
            console.print(f"version {done.version} serves; a rollback goes to {done.previous}")


def reject(model: Model, version: Number, reason: Why) -> None:
    """Bar a version from being promoted by the gates, for good."""
    from assets.lifecycle import promotion

    with readable_errors():
        life, ledger = _ledger(model)
        event = promotion.reject(life, ledger, version, _actor(), reason)
        already = "" if event else " already"
        console.print(f"version {version} of {model} is rejected{already}")


def rollback(model: Model, reason: Why) -> None:
    """Give the traffic back to the version before; it is loaded, so this takes milliseconds.

    The version that is left is barred until it is promoted with --override.
    """
    from flywheel_serving.client import ServingClient

    settings = Settings()
    with readable_errors():
        # Traffic first: what imports and books take comes after.
        client = ServingClient(settings.gateway_url, settings.admin_token)
        began = time.monotonic()
        done = client.rollback(model, _actor(), reason)
        took = time.monotonic() - began
        console.print(f"version {done.version} of {model} serves again ({took * 1000:.0f} ms)")

        from assets.lifecycle import promotion
        from resources.build import default_resources

        life, ledger = _ledger(model)
        serving = default_resources(settings)["serving"]
        event = promotion.rolled_back(life, ledger, serving, done, _actor(), reason)
        if event:
            promotion.tell_dagster(life, ledger, event, _instance())
            console.print(
                f"version {event.previous} is barred; undo: flywheel promote {model} "
                f"{event.previous} --override --reason ..."
            )


@dataclass(frozen=True)
class Happened:
    """A line of a model's history."""

    at: datetime
    what: str
    version: str
    by: str
    because: str


def add_to(app: typer.Typer) -> None:
    """Make the commands part of an application."""
    for command, example in (
        (history, "flywheel history flight_delay"),
        (explain, "flywheel explain flight_delay --at 2026-05-04T14:03:00Z"),
        (compare, "flywheel compare flight_delay 1 2"),
        (promote, 'flywheel promote flight_delay 2 --reason "looked at the winter weeks"'),
        (reject, 'flywheel reject flight_delay 3 --reason "trained on the outage"'),
        (rollback, 'flywheel rollback flight_delay --reason "late answers since 14:00"'),
    ):
        app.command(epilog=f"Example: `{example}`")(command)


def _happened(life: Lifecycle, ledger: Ledger) -> Iterator[Happened]:
    model = life.spec.name
    for row in ledger.models(model):
        story = json.loads(row["story"])
        by = story.get("actor", "")
        yield Happened(
            row["at"], "registered", row["version"], by,
            f"trained as of {row['as_of']} by commit {row['git_commit'][:12]}",
        )  # fmt: skip
    for evaluated, verdicts in ledger.evaluations(model):
        failed = [one.verdict.gate for one in verdicts if not one.verdict.passed]
        against = f" against {evaluated.champion}" if evaluated.champion else ""
        said = f"gates said no: {', '.join(failed)}" if failed else "passes every gate"
        told = f"{said} (as of {evaluated.as_of}{against}, harness {evaluated.harness})"
        yield Happened(evaluated.at, "evaluated", evaluated.candidate, "", told)
    for event in ledger.events(model):
        yield Happened(event.at, _word(event), event.version, event.actor, _because(event))


def _word(event: Event) -> str:
    word = event.action.replace("_", " ")
    if event.kind == "traffic":
        return {"routed": "serves", "rolled back": "serves again"}.get(word, word)
    return f"{word} (override)" if event.override else word


def _because(event: Event) -> str:
    overruled = f" [overruled: {'; '.join(event.overruled)}]" if event.overruled else ""
    return event.reason + overruled


def _plain(value: object) -> str:
    """A value for a person: nested ones a line each."""
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {_plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return "\n".join(_plain(one) for one in value)
    if isinstance(value, float):
        return f"{value:,.4g}"
    return str(value)


def _moment(text: str) -> datetime:
    if not text:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        refuse(f"{text!r} is no time: write e.g. 2026-05-04T14:03:00Z", code=2)
    if moment.tzinfo is None:
        refuse(f"{text} has no time zone: write e.g. {text}Z or {text}+02:00", code=2)
    return moment.astimezone(UTC)


def _ledger(model: str) -> tuple[Lifecycle, Ledger]:
    from resources.build import default_resources
    from resources.ledger import Ledger

    life = life_of(model)
    resources = default_resources(Settings())
    return life, Ledger(resources["lakehouse"], resources["registry"])


def _actor() -> str:
    return Settings().actor or getpass.getuser()


def _instance() -> Any:
    """The Dagster instance that `flywheel up` shows."""
    import dagster as dg

    from flywheel.services import environment, prepare_dagster_home

    settings = Settings()
    os.environ.update(environment(settings))
    prepare_dagster_home(settings)
    return dg.DagsterInstance.get()
