"""Keeping tables quick and small: compaction, expiry of snapshots, removal of orphaned files.

pyiceberg has expiry, which edits metadata only; the other two are ours. All three may run beside
writers: a compaction that lost a race is repeated, an orphan is removed only when it is older than
the grace that a writer under way may need, and what a tag or branch holds is never expired.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from resources.lakehouse import KEY, PARTITION_BY, Lakehouse, Window, attempts, expression

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from pyiceberg.table import Table

MAINTENANCE = "flywheel.maintenance"


@dataclass(frozen=True)
class Policy:
    """How much history and how many files a table may have.

    Attributes:
        keep_snapshots: Newest snapshots that are kept, beside those of tags and branches.
        max_files: Files of a partition above which they become one.
        max_bytes: Greatest size of a partition that is rewritten, in bytes as stored.
        grace: Age from which an unreferenced file counts as orphaned: longer than any write takes.
    """

    keep_snapshots: int = 30
    max_files: int = 8
    max_bytes: int = 512 * 1024 * 1024
    grace: timedelta = timedelta(days=1)


@dataclass(frozen=True)
class Figures:
    """What a table is made of.

    Attributes:
        snapshots: Snapshots in its metadata.
        files: Data files that a full scan reads.
        bytes: Their size.
        stored_files: All files under its location.
        stored_bytes: Their size.
    """

    snapshots: int
    files: int
    bytes: int
    stored_files: int
    stored_bytes: int


@dataclass(frozen=True)
class Maintained:
    """A table before and after, and what was done."""

    table: str
    before: Figures
    after: Figures
    compacted_partitions: int
    expired_snapshots: int
    removed_files: int

    def row(self) -> dict[str, Any]:
        """One flat line of a report: `snapshots_before`, `snapshots_after`, ..."""
        figures = {
            f"{field.name}_{when}": asdict(one)[field.name]
            for field in fields(Figures)
            for when, one in (("before", self.before), ("after", self.after))
        }
        return {
            "table": self.table,
            **figures,
            "compacted_partitions": self.compacted_partitions,
            "expired_snapshots": self.expired_snapshots,
            "removed_files": self.removed_files,
        }


def maintain(lakehouse: Lakehouse, name: str, policy: Policy | None = None) -> Maintained:
    """Compact, expire, and remove orphans, in this order.

    Args:
        lakehouse: Where the table is.
        name: `namespace.table`.
        policy: Limits; the usual ones if None.
    """
    policy = policy or Policy()
    before = figures(lakehouse.table(name))
    compacted = compact(lakehouse, name, policy)
    expired = lakehouse.expire(name, policy.keep_snapshots)
    removed = remove_orphans(lakehouse.table(name), policy.grace)
    return Maintained(
        name, before, figures(lakehouse.table(name)), compacted, expired, len(removed)
    )


def figures(table: Table) -> Figures:
    """Count and weigh a table's snapshots and files."""
    current = [task.file for task in table.scan().plan_files()]
    stored = _stored(table)
    return Figures(
        snapshots=len(table.snapshots()),
        files=len(current),
        bytes=sum(file.file_size_in_bytes for file in current),
        stored_files=len(stored),
        stored_bytes=sum(entry["size"] for entry in stored.values()),
    )


def compact(lakehouse: Lakehouse, name: str, policy: Policy) -> int:
    """Rewrite every partition of too many files as one file, without changing a row.

    One partition is in memory at a time.

    Returns:
        The number of partitions rewritten.
    """
    windows = _crowded(lakehouse.table(name), policy)
    for window in windows:
        for attempt in attempts():
            with attempt:
                table = lakehouse.table(name)
                rows = table.scan(row_filter=expression(window)).to_arrow()
                order = dict.fromkeys(
                    [*([window.column] if window else []), *table.properties[KEY].split(",")]
                )
                table.overwrite(
                    rows.sort_by([(column, "ascending") for column in order]),
                    expression(window),
                    snapshot_properties={MAINTENANCE: "compaction"},
                )
    return len(windows)


def remove_orphans(table: Table, grace: timedelta) -> list[str]:
    """Remove files under the table's location that no snapshot refers to.

    Args:
        table: Loaded after any expiry.
        grace: Files younger than this stay: a writer may be about to commit them.

    Returns:
        Paths of the removed files.
    """
    # The listing comes first: a file that is committed in between is then simply not in it.
    stored = _stored(table)
    referenced = {_path(location) for location in _referenced(table.refresh())}
    horizon = time.time() - grace.total_seconds()
    orphans = [
        path
        for path, entry in stored.items()
        if path not in referenced and _modified(entry) < horizon
    ]
    filesystem = _filesystem(table)
    for path in orphans:
        filesystem.rm_file(path)
    return orphans


def _crowded(table: Table, policy: Policy) -> Sequence[Window | None]:
    """The partitions with too many files; None is a table without partitions."""
    files: Counter[Any] = Counter()
    size: Counter[Any] = Counter()
    for task in table.scan().plan_files():
        value = task.file.partition[0] if len(task.file.partition) else None
        files[value] += 1
        size[value] += task.file.file_size_in_bytes
    crowded = [v for v, n in files.items() if n > policy.max_files and size[v] <= policy.max_bytes]
    column = table.properties.get(PARTITION_BY)
    return [_month(table, column, value) if column else None for value in crowded]


def _month(table: Table, column: str, months: int) -> Window:
    """The window of a month that Iceberg counts from January 1970 (UTC)."""
    first = date(1970 + months // 12, months % 12 + 1, 1)
    following = date(1970 + (months + 1) // 12, (months + 1) % 12 + 1, 1)
    if str(table.schema().find_field(column).field_type) == "date":
        return Window(column, first, following)
    start, end = (datetime(d.year, d.month, 1, tzinfo=UTC) for d in (first, following))
    return Window(column, start, end)


def _referenced(table: Table) -> Iterator[str]:
    """Every file that the table's metadata leads to."""
    yield table.metadata_location
    yield from (entry.metadata_file for entry in table.metadata.metadata_log)
    yield from (statistics.statistics_path for statistics in table.metadata.statistics)
    seen: set[str] = set()
    for snapshot in table.snapshots():
        yield snapshot.manifest_list
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path in seen:
                continue
            seen.add(manifest.manifest_path)
            yield manifest.manifest_path
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
                yield entry.data_file.file_path


def _stored(table: Table) -> Mapping[str, dict[str, Any]]:
    """What lies under the table's location, by path."""
    return _filesystem(table).find(_path(table.location()), detail=True)


def _filesystem(table: Table) -> AbstractFileSystem:
    import fsspec

    # Without its cache, a listing shows what other processes have written.
    return fsspec.filesystem(urlsplit(table.location()).scheme or "file", use_listings_cache=False)


def _path(location: str) -> str:
    """A location as fsspec's listings name it: `file:///a/b` is `/a/b`, `s3://b/c` is `b/c`."""
    parts = urlsplit(location)
    return parts.path if parts.scheme in ("", "file") else f"{parts.netloc}{parts.path}"


def _modified(entry: Mapping[str, Any]) -> float:
    """When a file was written, in seconds since the epoch."""
    written = entry.get("mtime", entry.get("LastModified"))
    assert written is not None
    return written.timestamp() if isinstance(written, datetime) else float(written)
