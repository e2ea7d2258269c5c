"""What a run does with the rows it computed: check them, put bad ones aside, tell Dagster.

Bad rows are kept before anything else happens, so that a batch that fails loses none of them.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.catalog import DATASET_LAYER, quarantine_key
from flywheel.contract.quarantine import batch_window, quarantine_rows
from flywheel.contract.validation import Validation, validate
from flywheel.dataset import QUARANTINE_CIRCUMSTANCES, Dataset

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    from pyiceberg.table import DataScan

    from resources.lakehouse import Lakehouse, Window

CONTRACT_CHECK = "contract"

SAMPLE_ROWS = 5


def part(
    context: dg.AssetExecutionContext, declared: Dataset, rows: pa.Table, *, inside: bool
) -> Validation:
    """Check a batch and bring the quarantine of its days up to what was found.

    Args:
        context: The run; it has the resource `lakehouse`.
        declared: The dataset.
        rows: Conforming rows.
        inside: Whether the rows are known to lie inside of the run's partitions.
    """
    window = None
    if context.assets_def.partitions_def is not None:
        partitions = context.partition_time_window
        window = batch_window(declared, partitions.start, partitions.end)
    validation = validate(declared, rows, window, with_window=not inside)
    _keep(context, declared, validation)
    return validation


def check_result(table: str, validation: Validation) -> dg.AssetCheckResult:
    """The result of the check `contract`: what was checked, and what broke it."""
    import great_expectations

    metadata: dict[str, Any] = {
        "rules checked": len(validation.rules),
        "rows": validation.clean.num_rows + validation.quarantined.num_rows,
        "rows quarantined": validation.quarantined.num_rows,
        "great_expectations": great_expectations.__version__,
    }
    if validation.quarantined.num_rows:
        metadata["quarantine"] = f"{table}__quarantine"
    for violation in validation.violations:
        metadata[violation.rule.name] = violation.detail or violation.rows
    return dg.AssetCheckResult(
        check_name=CONTRACT_CHECK, passed=not validation.failures, metadata=metadata
    )


def failure(table: str, declared: Dataset, validation: Validation) -> dg.Failure:
    """The end of a run whose batch must not be written."""
    put_aside = validation.quarantined.num_rows
    kept = (
        f" {put_aside} bad rows ({validation.share:.2%}; {declared.tolerance:.2%} are tolerated) "
        f"are kept in {table}__quarantine, each with its reasons."
        if put_aside
        else ""
    )
    return dg.Failure(
        f"{table} breaks its contract, and nothing of this batch was written to it: "
        f"{'; '.join(map(str, validation.failures))}.{kept} Correct the source and run it again, "
        "or change the declaration if these rows are right."
    )


def history_audit(table: str, declared: Dataset) -> Callable[[DataScan], None]:
    """An audit of the whole table as it would be with a batch in it: see `Lakehouse.write`."""

    def audit(scan: DataScan) -> None:
        from flywheel.contract.sql import audit_history

        if broken := audit_history(declared, scan.to_arrow_batch_reader()):
            raise dg.Failure(
                f"{table} would break its contract with this batch, and it was not published: "
                f"{'; '.join(map(str, broken))}. Look at it with `flywheel data show "
                f"{table}@audit/PARTITION`; correct the source and run it again."
            )

    return audit


def _keep(context: dg.AssetExecutionContext, declared: Dataset, validation: Validation) -> None:
    """Make the quarantine of the batch's days hold exactly its bad rows."""
    from resources.lakehouse import RUN_ID

    lakehouse: Lakehouse = context.resources.lakehouse
    key = quarantine_key(context.asset_key)
    name = ".".join(key.path)
    if not validation.quarantined.num_rows and not lakehouse.exists(name):
        return
    days, timezone = _days(context, declared)
    rows = quarantine_rows(
        declared,
        validation.quarantined,
        days=days,
        timezone=timezone,
        run=context.run_id,
        at=datetime.now(UTC),
    )
    written = lakehouse.write(
        name,
        rows,
        _window(days),
        {RUN_ID: context.run_id},
        ignoring=QUARANTINE_CIRCUMSTANCES,
    )
    listed = context.assets_def.tags_by_key[context.asset_key].get("flywheel/layer")
    if written.changed and listed == DATASET_LAYER:
        single = days[0].isoformat() if days and days[1] - days[0] == timedelta(days=1) else None
        context.log_event(
            dg.AssetMaterialization(
                key,
                description=f"{rows.num_rows} rows of this batch break the contract.",
                partition=single,
                metadata=_metadata(name, declared, validation, written.total_rows),
            )
        )


def _days(
    context: dg.AssetExecutionContext, declared: Dataset
) -> tuple[tuple[date, date] | None, str]:
    definition = context.assets_def.partitions_def
    if declared.partition_by is None or not isinstance(
        definition, dg.TimeWindowPartitionsDefinition
    ):
        return None, "UTC"
    window = context.partition_time_window
    return (window.start.date(), window.end.date()), definition.timezone


def _window(days: tuple[date, date] | None) -> Window | None:
    from resources.lakehouse import Window

    return Window("quarantine_batch", *days) if days else None


def _metadata(
    name: str, declared: Dataset, validation: Validation, total: int
) -> dict[str, dg.MetadataValue | str | int]:
    reasons = Counter({v.rule.name: v.rows for v in validation.violations if v.rows})
    metadata: dict[str, dg.MetadataValue | str | int] = {
        "dagster/table_name": name,
        "dagster/row_count": total,
        "rows of this batch": validation.quarantined.num_rows,
        **reasons,
    }
    if validation.quarantined.num_rows:
        metadata["sample"] = dg.MetadataValue.md(_sample(declared, validation.quarantined))
    return metadata


def _sample(declared: Dataset, rows: pa.Table) -> str:
    """Key and reasons of the first rows as a Markdown table, without classified values."""
    shown = [name for name in declared.key if not declared.column(name).classification]
    names = [*shown, "quarantine_reason"]
    lines = [names, ["---"] * len(names)]
    for row in rows.slice(0, SAMPLE_ROWS).select(names).to_pylist():
        reasons = "; ".join(row["quarantine_reason"])
        lines.append([*(str(row[name]) for name in shown), reasons])
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
