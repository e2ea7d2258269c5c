"""January through the job that ingests days and computes features, with validation timed apart.

Expects `FLYWHEEL_HOME` to be an empty folder.
"""

from __future__ import annotations

from datetime import date
from importlib import import_module

from bench.measure import Stopwatch, report
from flywheel.services import prepare_dagster_home
from flywheel.settings import Settings

FIRST_DAY, END = date(2013, 1, 1), date(2013, 2, 1)

IMPORT, CHECKS, REST_OF_IT = (
    "importing Great Expectations",
    "Great Expectations' checks",
    "rows parted, quarantine looked at",
)


def main() -> None:
    """Ingest the month as `make demo` does; report where the time went, and how many rows."""
    watch = Stopwatch()
    import dagster as dg

    from assets.discovery import domains
    from definitions import build_definitions
    from jobs.demo import QUIET, range_tags, trust_the_page_cache

    trust_the_page_cache()
    prepare_dagster_home(Settings())
    assert domains()
    definitions = build_definitions()
    instance = dg.DagsterInstance.get()
    rows = watch_parts(watch)
    for job, tags in (("flights_reference", {}), ("flights_data", range_tags((FIRST_DAY, END)))):
        result = definitions.resolve_job_def(job).execute_in_process(
            instance=instance, run_config=QUIET, tags=tags
        )
        assert result.success
    report({"parts": watch.parts(), "rows": sum(rows), "batches": len(rows)})


def watch_parts(watch: Stopwatch) -> list[int]:
    """Charge validation to its parts; return a list that grows by the rows of each batch."""
    from assets import authoring
    from flywheel.contract import expectations, validation

    rows: list[int] = []
    check = expectations.check

    def counted(rules, table):
        rows.append(table.num_rows)
        with watch.part(IMPORT):
            import_module("great_expectations.expectations")  # else the first check would
        with watch.part(CHECKS):
            return check(rules, table)

    validation.check = counted
    for step in ("part", "check_result"):
        watch.watch(authoring, step, REST_OF_IT)
    return rows


if __name__ == "__main__":
    main()
