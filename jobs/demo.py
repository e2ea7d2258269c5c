"""`make demo`: the wheel turns once on the flights of 2013, with everything left running.

January and February are ingested and trained on; the first days of March are served; the world
moves on to July; what is served has drifted; the sensor trains a challenger, which takes over.
Every step looks at what is there first, so a second demo does only what is missing.
"""

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from flywheel.services import Service, ServiceError, Services, environment, prepare_dagster_home
from flywheel.settings import Settings

console = Console()

FIRST_DAY = date(2013, 1, 1)
FIRST_TRAINING = date(2013, 3, 1)
MARCH = (date(2013, 3, 1), date(2013, 3, 4))
# Late enough to be quick, early enough to learn May and June from, features' evidence included.
SPRING = date(2013, 4, 24)
JULY = (date(2013, 7, 1), date(2013, 7, 8))

SENSOR_SECONDS = 900.0

# Tag of the demo's runs that names their step.
STEP = "flywheel/demo"


class DemoError(RuntimeError):
    """The demo cannot go on; the message says where to look."""


def main() -> int:
    """Run the demo; 0 if the wheel has turned."""
    settings = Settings()
    os.environ.update(environment(settings))
    trust_the_page_cache()
    prepare_dagster_home(settings)
    services = Services(settings)
    began = time.monotonic()
    try:
        started = {name: services.start(name) for name in ("serving", "mlflow")}
        turn = Turn(services)
        turn.data()
        services.wait(started["serving"])
        turn.first_champion()
        turn.march()
        # The UI and its daemon start while the data of spring comes in.
        started["dagster"] = services.start("dagster")
        turn.spring()
        turn.july()
        for service in started.values():
            services.wait(service)
        turn.challenger(started["dagster"])
        turn.summary(started)
    except (DemoError, ServiceError) as error:
        console.print(f"[red]{error}[/red]")
        return 1
    console.print(f"\nThe wheel has turned in {time.monotonic() - began:.0f} seconds.")
    console.print("Everything is left running: [bold]make down[/bold] stops it.")
    return 0


class Turn:
    """One turn of the wheel, on one Dagster instance."""

    def __init__(self, services: Services) -> None:
        with step("loading the code location"):
            import dagster as dg

            from assets.discovery import domains
            from assets.lifecycle.names import Lifecycle
            from definitions import build_definitions

            self.dg = dg
            self.definitions = build_definitions()
            self.repository = self.definitions.get_repository_def()
            self.instance = dg.DagsterInstance.get()
            domain = next(d for d in domains() if d.name == "flights")
            self.life = Lifecycle("flights", domain.models[0])
        self.services = services
        self.spec = self.life.spec

    def data(self) -> None:
        """January and February, their features, and the online store as it was on 1 March."""
        self._run("flights_reference", "airlines, airports, planes", {})
        self._run(
            "flights_data",
            "January and February: flights, weather, features, online store",
            range_tags((FIRST_DAY, FIRST_TRAINING)),
        )

    def first_champion(self) -> None:
        """Train as of 1 March."""
        as_of = FIRST_TRAINING.isoformat()
        self._run(
            f"{self.spec.name}_training",
            f"training as of {as_of}, evaluation, deployment",
            {
                "dagster/partition": as_of,
                **self.life.run_tags(as_of),
                "flywheel/trigger": "manual",
                "flywheel/reason": "the first model",
            },
        )

    def march(self) -> None:
        """The first days of March, served."""
        self._ingest("the first days of March", MARCH)
        self._serve("the first days of March", MARCH)

    def spring(self) -> None:
        """Spring passes, without traffic."""
        self._ingest("spring to 1 July", (SPRING, JULY[0]), online=True)

    def july(self) -> None:
        """A week of July, served by a model of February."""
        self._ingest("a week of July", JULY)
        self._serve("a week of July", JULY)

    def challenger(self, dagster: Service) -> None:
        """Wait for the sensor to train, and for the new champion to serve."""
        as_of = JULY[1].isoformat()
        with step("the drift sensor trains a challenger") as note:
            deadline = time.monotonic() + SENSOR_SECONDS
            while True:
                run = self._triggered(as_of)
                if run is not None and run.is_finished:
                    break
                if time.monotonic() > deadline:
                    raise DemoError(
                        f"no training run for {as_of} finished in {SENSOR_SECONDS:.0f} s: look at "
                        f"{dagster.url}/automation and {self.services.logs}/dagster.log"
                    )
                time.sleep(1.0)
            if not run.is_success:
                raise DemoError(f"the triggered run failed: {dagster.url}/runs/{run.run_id}")
            note(run.tags["flywheel/reason"])

    def summary(self, services: dict[str, Service]) -> None:
        """What serves, since when, why; and where to look."""
        from rich.table import Table

        from resources.build import default_resources

        resources = default_resources(Settings())
        console.print()
        table = Table("version", "as of", "training rows", "served from", "state", box=None)
        served = {m.name: m for m in resources["serving"].client.models()}[self.spec.name]
        for version in reversed(resources["registry"].versions(self.spec.name)):
            run = resources["registry"].client.get_run(version.run_id)
            state = {served.version: "champion", served.previous: "previous"}.get(
                version.number, ""
            )
            table.add_row(
                version.number, version.tags["as_of"],
                f"{run.data.metrics['training_rows']:.0f}",
                served.since if state == "champion" else "", state,
            )  # fmt: skip
        console.print(table)
        console.print()
        pages = {
            "Dagster UI": services["dagster"].url,
            "  lineage": f"{services['dagster'].url}/asset-groups",
            "MLflow UI": services["mlflow"].url,
            "Gateway": services["serving"].url,
        }
        for name, url in pages.items():
            console.print(f"{name:<12} {url}")
        example = (
            '{"flight_id":"20130707-B6-727-JFK","carrier":"B6","tailnum":"N630JB","origin":"JFK",'
            '"dest":"BQN","distance":1576,"scheduled_departure":"2013-07-07T23:59:00-04:00",'
            '"scheduled_arrival":"2013-07-08T03:50:00-04:00"}'
        )
        console.print("\nAsk it:")
        console.print(
            f"curl -s {services['serving'].url}/v1/models/{self.spec.name}/predict -d '{example}'",
            soft_wrap=True, highlight=False,
        )  # fmt: skip

    def _ingest(self, what: str, days: tuple[date, date], *, online: bool = False) -> None:
        """Days that will be replayed must not reach the online store before their time."""
        names = [self.spec.spine.dataset.name, "weather", *(v.name for v in self.spec.views)]
        also = ["online_features"] if online else []
        self._materialize(f"{what}: flights, weather, features", [*names, *also], days)

    def _serve(self, what: str, days: tuple[date, date]) -> None:
        """Replay days through the gateway, then collect and measure what was served."""
        from jobs.replay import replay
        from resources.build import default_resources

        measured = f"{what}: predictions, drift, performance"
        if self._is_done(measured):
            done(f"{what}, served")
        else:
            resources = default_resources(Settings())
            with progress(f"{what}, served") as advance:
                calendar = self.spec.calendar.days(*days)
                for place, day in enumerate(calendar):
                    replay(
                        self.life,
                        day,
                        resources["lakehouse"],
                        resources["feature_store"],
                        resources["serving"],
                        lambda n, total, place=place: advance((place + n / total) / len(calendar)),
                    )
        names = [f"{self.spec.name}_{s}" for s in ("predictions", "drift", "performance")]
        self._materialize(measured, names, days)

    def _materialize(self, what: str, names: list[str], days: tuple[date, date]) -> None:
        """Materialize assets of the domain for a range of days, as one run."""
        job = self.repository.get_implicit_global_asset_job_def()
        keys = {self.life.sibling(name) for name in names}
        self._execute(job.get_subset(asset_selection=keys), what, range_tags(days))

    def _run(self, job: str, what: str, tags: dict[str, str]) -> None:
        self._execute(self.definitions.resolve_job_def(job), what, tags)

    def _execute(self, job: Any, what: str, tags: dict[str, str]) -> None:
        """Run a job in this process, unless an earlier demo has; the run remembers its step."""
        if self._is_done(what):
            done(what)
            return
        with step(what):
            result = job.execute_in_process(
                instance=self.instance,
                tags={**tags, STEP: what},
                partition_key=tags.get("dagster/partition"),
                raise_on_error=False,
                run_config=QUIET,
            )
        if not result.success:
            raise DemoError(f"{what} failed in run {result.run_id}:\n{cause_of(result)}")

    def _is_done(self, what: str) -> bool:
        """Whether a run of this step has succeeded: a killed one is run again."""
        succeeded = self.dg.RunsFilter(
            tags={STEP: what}, statuses=[self.dg.DagsterRunStatus.SUCCESS]
        )
        return bool(self.instance.get_runs(succeeded, limit=1))

    def _triggered(self, as_of: str) -> Any:
        runs = self.instance.get_runs(
            self.dg.RunsFilter(tags={**self.life.run_tags(as_of), "flywheel/trigger": "drift"})
        )
        return runs[0] if runs else None


def trust_the_page_cache() -> None:
    """Let this process's SQLite commits return before they reach the disk.

    Dagster commits several times for every partition, and a commit that waits for a disk takes
    tens of milliseconds. A killed process loses nothing by this; a power cut may, and then
    `make clean demo` makes the demo's world again.
    """
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "connect")
    def relax(connection: Any, _record: Any) -> None:
        if type(connection).__module__.startswith("sqlite3"):
            connection.execute("PRAGMA synchronous=OFF")


QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


def range_tags(days: tuple[date, date]) -> dict[str, str]:
    """Run tags for a range of daily partitions, its end excluded."""
    return {
        "dagster/asset_partition_range_start": days[0].isoformat(),
        "dagster/asset_partition_range_end": (days[1] - timedelta(days=1)).isoformat(),
    }


def cause_of(result: Any) -> str:
    """Why a run in this process failed."""
    failures = [e for e in result.all_events if e.is_step_failure]
    data = failures[0].step_failure_data if failures else None
    return data.error_display_string if data else "see the run in the Dagster UI"


def done(what: str) -> None:
    """Say that a step was done by an earlier demo."""
    console.print(f"  [green]✓[/green] {what} [dim](was there)[/dim]")


@contextmanager
def step(what: str) -> Iterator[Callable[[str], None]]:
    """Show that something is going on, and then how long it took."""
    began = time.monotonic()
    notes: list[str] = []
    with console.status(f"{what} ..."), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about one another; the logs have them
        yield notes.append
    console.print(f"  [green]✓[/green] {what} [dim]({time.monotonic() - began:.0f} s)[/dim]")
    for note in notes:
        console.print(f"    [dim]{note}[/dim]")


@contextmanager
def progress(what: str) -> Iterator[Callable[[float], None]]:
    """Show a bar; the function that is given takes the share that is done."""
    began = time.monotonic()
    with Progress(
        TextColumn("  {task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        console=console, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(task, completed=share)
    console.print(f"  [green]✓[/green] {what} [dim]({time.monotonic() - began:.0f} s)[/dim]")


if __name__ == "__main__":
    sys.exit(main())
