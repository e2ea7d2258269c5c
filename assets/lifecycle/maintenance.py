"""The upkeep of a domain's tables, as an asset: what was done, with figures before and after."""

import dataclasses
from datetime import timedelta
from typing import Any

import dagster as dg

from assets.discovery import Domain
from resources.lakehouse import Lakehouse
from resources.maintenance import Figures, Maintained, Policy, maintain


class Upkeep(dg.Config):
    """What a run may be told; the defaults are `resources.maintenance.Policy`'s."""

    keep_snapshots: int = Policy.keep_snapshots
    max_files: int = Policy.max_files
    grace_hours: float = Policy.grace.total_seconds() / 3600


def maintenance(domain: Domain) -> dg.AssetsDefinition:
    """The asset that compacts, expires and clears up the tables of a domain."""

    @dg.asset(
        key=dg.AssetKey([domain.name, "maintenance"]),
        group_name=domain.name,
        description="Upkeep of the domain's Iceberg tables: partitions of many small files become "
        "one file, old snapshots expire (never those of a tag), files that nothing refers to are "
        "removed.",
        owners=[domain.owner],
        kinds={"iceberg"},
        tags={"flywheel/layer": "maintenance"},
        pool="lakehouse",
    )
    def compute(
        context: dg.AssetExecutionContext, config: Upkeep, lakehouse: Lakehouse
    ) -> dg.MaterializeResult[Any]:
        policy = dataclasses.replace(
            Policy(),
            keep_snapshots=config.keep_snapshots,
            max_files=config.max_files,
            grace=timedelta(hours=config.grace_hours),
        )
        names = [n for n in lakehouse.names() if n.startswith(f"{domain.name}.")]
        done: list[Maintained] = []
        for name in names:
            context.log.info(f"{name} ({len(done) + 1} of {len(names)})")
            done.append(maintain(lakehouse, name, policy))
        return dg.MaterializeResult(metadata=_metadata(done))

    return compute


def _metadata(done: list[Maintained]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(Figures)]
    lines = ["| table | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for one in done:
        before, after = dataclasses.asdict(one.before), dataclasses.asdict(one.after)
        cells = [
            f"{before[n]:,}" if before[n] == after[n] else f"{before[n]:,} → {after[n]:,}"
            for n in names
        ]
        lines.append(f"| {one.table} | " + " | ".join(cells) + " |")
    return {
        "before and after": dg.MetadataValue.md("\n".join(lines)),
        "tables": len(done),
        "compacted_partitions": sum(one.compacted_partitions for one in done),
        "expired_snapshots": sum(one.expired_snapshots for one in done),
        "removed_files": sum(one.removed_files for one in done),
        "freed_bytes": sum(one.before.stored_bytes - one.after.stored_bytes for one in done),
    }
