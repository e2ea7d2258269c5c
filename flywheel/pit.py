"""The point-in-time join: for each question, the feature values that were known at its moment.

A feature row is usable at time t if its `event_timestamp` (when it became true) and its
`created_timestamp` (when we knew it) are both at or before t. Among the usable rows of the same
entity the one with the latest event wins, and among equal events the one created last. A row whose
event is older than the view's time to live counts as absent.

Everything is arrays in, row positions out; who reads the tables does not matter here. Tables too
long for memory go through `flywheel.pit_stream`, chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

ABSENT = -1

Unit = Literal["us", "ns"]
TICKS_PER_SECOND: dict[Unit, int] = {"us": 1_000_000, "ns": 1_000_000_000}

_LARGEST = 2**63 - 1


def entity_codes(
    left: pa.Table, right: pa.Table, join_keys: Sequence[str]
) -> tuple[IntArray, IntArray]:
    """Number the entities of two tables alike.

    Args:
        left: Table with the join key columns.
        right: Table with the join key columns.
        join_keys: One or more column names.

    Returns:
        int64 [left rows] and int64 [right rows]: equal codes mean equal keys, and no code reaches
        the number of rows. A null in any join key gives ABSENT: a null entity matches nothing.
    """
    code = np.zeros(left.num_rows + right.num_rows, dtype=np.int64)
    null = np.zeros(len(code), dtype=bool)
    for place, name in enumerate(join_keys):
        dtype = right.schema.field(name).type
        both = pa.chunked_array(
            [*left.column(name).cast(dtype).chunks, *right.column(name).chunks], type=dtype
        )
        indices, cardinality = _dense(both)
        if both.null_count:
            null |= both.is_null().to_numpy()
        # Dense again after each further column, so that many join keys cannot overflow.
        code = indices if place == 0 else _dense(pa.array(code * cardinality + indices))[0]
    code[null] = ABSENT
    return code[: left.num_rows], code[left.num_rows :]


def latest_known(
    asked_key: IntArray,
    asked_at: IntArray,
    row_key: IntArray,
    event_at: IntArray,
    created_at: IntArray,
    ttl: int | None = None,
) -> IntArray:
    """Position of the feature row that was known to each question.

    Args:
        asked_key: int64 [q] entity codes, dense (`entity_codes`).
        asked_at: int64 [q] times of the questions, any unit.
        row_key: int64 [n] entity codes of the feature rows.
        event_at: int64 [n] event times, same unit.
        created_at: int64 [n] creation times, same unit.
        ttl: Greatest age (asked_at - event_at) at which a row still counts, same unit; None for
            no limit.

    Returns:
        int64 [q] positions into the feature rows, ABSENT where nothing was known.
    """
    return Timeline.of(row_key, event_at, created_at).latest(asked_key, asked_at, ttl)


def point_in_time_join(
    spine: pa.Table,
    features: pa.Table,
    join_keys: Sequence[str],
    *,
    spine_timestamp: str = "event_timestamp",
    ttl_seconds: float | None = None,
) -> IntArray:
    """`latest_known` for Arrow tables.

    Args:
        spine: The questions: join keys and `spine_timestamp` (timestamp, any time zone and unit).
        features: Join keys, `event_timestamp` and `created_timestamp` (likewise).
        join_keys: Column names present in both.
        spine_timestamp: The spine's time column.
        ttl_seconds: Time to live of a feature row; None for no limit.

    Returns:
        int64 [spine rows]: row positions into `features`, ABSENT where nothing was known.

    Raises:
        ValueError: A timestamp is null, has no time zone, or is not there.
    """
    unit = common_unit((spine, spine_timestamp), *((features, name) for name in ROW_TIMES))
    asked_key, row_key = entity_codes(spine, features, join_keys)
    event_at, created_at = (ticks(features, name, unit) for name in ROW_TIMES)
    return latest_known(
        asked_key,
        ticks(spine, spine_timestamp, unit),
        row_key,
        event_at,
        created_at,
        ttl_ticks(ttl_seconds, unit),
    )


ROW_TIMES = ("event_timestamp", "created_timestamp")


def common_unit(*columns: tuple[pa.Table, str]) -> Unit:
    """The coarsest unit in which the timestamp columns can be compared exactly."""
    return "ns" if any(timestamps(*column).type.unit == "ns" for column in columns) else "us"


def ticks(table: pa.Table, column: str, unit: Unit = "us") -> IntArray:
    """A timestamp column as int64 ticks since the epoch (UTC).

    Raises:
        ValueError: The column is missing, has no time zone, or holds a null or a moment that the
            unit cannot express.
    """
    values = timestamps(table, column)
    if values.null_count:
        raise ValueError(f"{column} holds {values.null_count} nulls; a point in time is required")
    try:
        moments = values.cast(pa.timestamp(unit, tz=values.type.tz))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{column} cannot be measured in {unit}: {error}") from error
    return moments.cast(pa.int64()).to_numpy()


def timestamps(table: pa.Table, column: str) -> pa.ChunkedArray:
    """A column of instants.

    Raises:
        ValueError: It is missing, is no timestamp, or has no time zone.
    """
    if column not in table.column_names:
        raise ValueError(f"there is no column {column!r} among {table.column_names}")
    values = table.column(column)
    if not pa.types.is_timestamp(values.type) or values.type.tz is None:
        raise ValueError(
            f"{column} is {values.type}; a timestamp with a time zone is required, because local "
            "time alone does not say what was known when (convert with tz_localize)"
        )
    return values


def ttl_ticks(seconds: float | None, unit: Unit) -> int | None:
    """A time to live in a unit."""
    return None if seconds is None else round(seconds * TICKS_PER_SECOND[unit])


@dataclass(frozen=True)
class Timeline:
    """Feature rows in the order in which each became the best known of its entity.

    Attributes:
        rows: int64 [k] positions into the feature rows, sorted by entity, then by availability;
            without those that were superseded before they were known.
        key: int64 [k] their entity codes.
        event: int64 [k] their event times.
        available: int64 [k] from when on they may be used: the later of event and creation.
        scale: How (entity, time) becomes one sortable number.
    """

    rows: IntArray
    key: IntArray
    event: IntArray
    available: IntArray
    scale: _Scale

    @classmethod
    def of(cls, row_key: IntArray, event_at: IntArray, created_at: IntArray) -> Timeline:
        """Sort feature rows; the arguments are those of `latest_known`."""
        rows = np.flatnonzero(row_key != ABSENT)
        if len(rows) < len(row_key):
            row_key, event_at, created_at = row_key[rows], event_at[rows], created_at[rows]
        available = np.maximum(event_at, created_at)
        scale = _Scale.of(row_key, available)
        packed = scale.pack(row_key, available)
        order = np.argsort(packed, kind="stable")  # Timsort: rows come in sorted stretches
        if np.any(np.diff(packed[order]) == 0):  # then the better row comes last
            order = np.lexsort((created_at, event_at, packed))
        if np.any(created_at > event_at):
            order = order[
                _never_superseded(row_key[order], event_at[order], created_at[order])
            ]  # otherwise rows become known in the order of their events
        return cls(rows[order], row_key[order], event_at[order], available[order], scale)

    def latest(self, asked_key: IntArray, asked_at: IntArray, ttl: int | None) -> IntArray:
        """Positions of the rows known to questions, as `latest_known` returns them."""
        if not len(self.rows) or not len(asked_key):
            return np.full(len(asked_key), ABSENT, dtype=np.int64)
        packed = self.scale.pack(self.key, self.available)
        asked = self.scale.pack(asked_key, asked_at)
        found = np.searchsorted(packed, asked, side="right") - 1
        at = np.maximum(found, 0)
        known = (found >= 0) & (self.key[at] == asked_key)
        if ttl is not None:
            known &= asked_at - self.event[at] <= ttl
        return np.where(known, self.rows[at], ABSENT)

    def still_needed(self, moment: int, ttl: int | None) -> IntArray:
        """Positions of the rows that a question at or after a moment may need.

        These are each entity's best row known at the moment, and the rows yet to become known;
        equal rows stay in their order.
        """
        if not len(self.rows):
            return self.rows
        waiting = self.available > moment
        # A row is done with once the next of its entity is known; one that waits has none such.
        needed = np.append((np.diff(self.key) != 0) | waiting[1:], True)
        if ttl is not None:
            needed &= moment - self.event <= ttl
        return self.rows[needed]


@dataclass(frozen=True)
class _Scale:
    """Packs (entity, time) into one int64 that sorts like the pair.

    Attributes:
        first: Earliest time of a row.
        last: Latest time of a row.
        keys: Greatest entity code of a row.
        moments: Distinct times of the rows where the span between first and last is too wide to
            pack; times then count as ranks among them.
    """

    first: int
    last: int
    keys: int
    moments: IntArray | None

    @classmethod
    def of(cls, key: IntArray, time: IntArray) -> _Scale:
        if not len(key):
            return cls(0, 0, 0, None)
        first, last, keys = int(time.min()), int(time.max()), int(key.max())
        fits = (keys + 2) * (last - first + 2) <= _LARGEST
        return cls(first, last, keys, None if fits else np.unique(time))

    def pack(self, key: IntArray, time: IntArray) -> IntArray:
        """Codes int64 [n]; a time before all rows sorts before the rows of its entity."""
        # Entities without rows share one code beyond all others, lest they overflow.
        key = np.minimum(key, self.keys + 1)
        if self.moments is not None:
            return key * (len(self.moments) + 1) + np.searchsorted(self.moments, time, "right")
        # Comparing first: the difference of far-away times could overflow.
        elapsed = np.where(time < self.first, 0, np.minimum(time, self.last) - (self.first - 1))
        return key * (self.last - self.first + 2) + elapsed


def _never_superseded(key: IntArray, event: IntArray, created: IntArray) -> NDArray[np.bool_]:
    """Mask of the rows that are the best known of their key at the moment they become available.

    A late correction of an older event never beats the newer event already known. Expects rows
    sorted by key and availability.
    """
    order = np.lexsort((created, event))  # stable: of equal rows the later one ranks higher
    rank = np.empty(len(key), dtype=np.int64)
    rank[order] = np.arange(len(key))
    dense_key = np.cumsum(np.concatenate([[0], np.diff(key) != 0]))
    packed = dense_key * len(key) + rank
    return packed >= np.maximum.accumulate(packed)


def _dense(values: pa.Array | pa.ChunkedArray) -> tuple[IntArray, int]:
    """Numbers of the distinct values, from 0 (a null has any number), and how many there are."""
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    encoded = whole.dictionary_encode()
    indices = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
    return indices.astype(np.int64), max(len(encoded.dictionary), 1)
