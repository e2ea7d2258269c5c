"""Who may see which columns, and the log of who did.

A dataset classifies its columns (`pii`, `sensitive`); a role is the set of classifications that it
may see. Everything a person reads through the command line passes here: other classified columns
come as nulls, and the access is written to `lifecycle.access` before a row is handed out. Runs of
the pipeline are not people: what they read is in Dagster's lineage. Whoever can open the bucket
itself passes no door of ours; its own permissions have to say the same.
"""

from __future__ import annotations

import getpass
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flywheel.dataset import Dataset, columns, required
from resources.lakehouse import At, Lakehouse

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table

    from flywheel.settings import Settings

LOG = "lifecycle.access"
CLASSIFIED = "flywheel.classified"

ACCESS = Dataset(
    name="access",
    key=("at", "access_id"),
    partition_by="at",
    columns=columns(
        required("access_id", "string", "Unique id."),
        required("at", "timestamp", "When."),
        required("actor", "string", "Who."),
        required("role", "string", "In which role."),
        required("purpose", "string", "What for: the command, and the reason if one was given."),
        required("table", "string", "What was read."),
        required("snapshot_id", "int64", "Which state of it."),
        required("shown", "list<string>", "Classified columns that were handed out."),
        required("masked", "list<string>", "Classified columns that came as nulls."),
    ),
)


class AccessError(PermissionError):
    """A role is not known; the message lists those that are."""


@dataclass(frozen=True)
class Reader:
    """A person at the door.

    Attributes:
        actor: Who it is.
        role: In which role.
        may_see: Classifications that the role may see.
    """

    actor: str
    role: str
    may_see: frozenset[str]

    @classmethod
    def from_settings(cls, settings: Settings) -> Reader:
        """The reader of this process: `FLYWHEEL_ACTOR` and `FLYWHEEL_ROLE`.

        Raises:
            AccessError: There is no such role.
        """
        if settings.role not in settings.roles:
            raise AccessError(
                f"there is no role {settings.role!r}: FLYWHEEL_ROLE is one of "
                f"{', '.join(settings.roles)}"
            )
        actor = settings.actor or getpass.getuser()
        return cls(actor, settings.role, frozenset(settings.roles[settings.role]))

    def batches(
        self, lakehouse: Lakehouse, name: str, at: At | None, purpose: str
    ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Schema and rows of a table as this reader may see them, a batch at a time.

        The access is on record before the first row is read.
        """
        import pyarrow as pa

        table = lakehouse.table(name)
        shown, masked = self._split(table)
        snapshot = lakehouse.current_snapshot(name) if at is None else lakehouse.resolve(name, at)
        if shown or masked:
            self._record(lakehouse, purpose, name, snapshot, shown, masked)
        reader = lakehouse.scan(name, at=at).to_arrow_batch_reader()
        schema = pa.schema(
            [field.with_nullable(True) for field in reader.schema]  # what is masked is null
        )

        def rows() -> Iterator[pa.RecordBatch]:
            for batch in reader:
                arrays = [
                    pa.nulls(batch.num_rows, field.type) if field.name in masked else column
                    for field, column in zip(schema, batch.columns, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

        return schema, rows()

    def read(self, lakehouse: Lakehouse, name: str, at: At | None, purpose: str) -> pa.Table:
        """A table as this reader may see it."""
        import pyarrow as pa

        schema, rows = self.batches(lakehouse, name, at, purpose)
        return pa.Table.from_batches(list(rows), schema)

    def _split(self, table: Table) -> tuple[list[str], list[str]]:
        """The classified columns that are shown, and those that are masked."""
        classified = json.loads(table.properties.get(CLASSIFIED, "{}"))
        shown = [name for name, kind in classified.items() if kind in self.may_see]
        return shown, [name for name in classified if name not in shown]

    def _record(
        self,
        lakehouse: Lakehouse,
        purpose: str,
        table: str,
        snapshot: int,
        shown: list[str],
        masked: list[str],
    ) -> None:
        import pyarrow as pa

        row = {
            "access_id": str(uuid.uuid4()),
            "at": datetime.now(UTC),
            "actor": self.actor,
            "role": self.role,
            "purpose": purpose,
            "table": table,
            "snapshot_id": snapshot,
            "shown": shown,
            "masked": masked,
        }
        lakehouse.append(LOG, pa.Table.from_pylist([row], schema=ACCESS.schema))
