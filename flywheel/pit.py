"""The point-in-time join: for each question, the feature values that were known at its moment.

A feature row is usable at time t if its `event_timestamp` (when it became true) and its
`created_timestamp` (when we knew it) are both at or before t. Among the usable rows of the same
entity the one with the latest event wins, and among equal events the one created last. A row whose
event is older than the view's time to live counts as absent.

Everything is arrays in, row positions out; who reads the tables does not matter here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

ABSENT = -1


def entity_codes(
    left: pa.Table, right: pa.Table, join_keys: Sequence[str]
) -> tuple[IntArray, IntArray]:
    """Number the entities of two tables alike.

    Args:
        left: Table with the join key columns.
        right: Table with the join key columns.
        join_keys: One or more column names.

    Returns:
        int64 [left rows] and int64 [right rows]: equal codes mean equal keys. A null in any join
        key gives ABSENT: a null entity matches nothing.
    """
    code = np.zeros(left.num_rows + right.num_rows, dtype=np.int64)
    null = np.zeros(len(code), dtype=bool)
    for name in join_keys:
        dtype = right.schema.field(name).type
        both = pa.chunked_array(
            [*left.column(name).cast(dtype).chunks, *right.column(name).chunks], type=dtype
        )
        encoded = both.combine_chunks().dictionary_encode()
        indices = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        null |= both.is_null().to_numpy()
        # Dense again after each column, so that many join keys cannot overflow.
        paired = code * max(len(encoded.dictionary), 1) + indices
        code = paired if len(join_keys) == 1 else np.unique(paired, return_inverse=True)[1]
    code = np.where(null, ABSENT, code).astype(np.int64)
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
        asked_key: int64 [q] entity codes.
        asked_at: int64 [q] times of the questions, any unit.
        row_key: int64 [n] entity codes of the feature rows.
        event_at: int64 [n] event times, same unit.
        created_at: int64 [n] creation times, same unit.
        ttl: Greatest age (asked_at - event_at) at which a row still counts, same unit; None for
            no limit.

    Returns:
        int64 [q] positions into the feature rows, ABSENT where nothing was known.
    """
    if not len(row_key) or not len(asked_key):
        return np.full(len(asked_key), ABSENT, dtype=np.int64)
    rows = np.flatnonzero(row_key != ABSENT)
    available = np.maximum(event_at, created_at)
    # In order of becoming available; ties: the better row last.
    rows = rows[np.lexsort((created_at[rows], event_at[rows], available[rows], row_key[rows]))]
    rows = rows[_never_superseded(row_key[rows], event_at[rows], created_at[rows])]
    if not len(rows):
        return np.full(len(asked_key), ABSENT, dtype=np.int64)

    # (key, time) as one number: times become their rank among the available ones.
    moments = np.unique(available[rows])
    stride = len(moments) + 1
    packed = row_key[rows] * stride + np.searchsorted(moments, available[rows], "right")
    asked = asked_key * stride + np.searchsorted(moments, asked_at, "right")
    found = np.searchsorted(packed, asked, side="right") - 1
    at = rows[np.maximum(found, 0)]
    known = (found >= 0) & (row_key[at] == asked_key) & (asked_key != ABSENT)
    if ttl is not None:
        known &= asked_at - event_at[at] <= ttl
    return np.where(known, at, ABSENT)


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
        spine: The questions: join keys and `spine_timestamp` (timestamp, UTC).
        features: Join keys, `event_timestamp` and `created_timestamp` (timestamps, UTC).
        join_keys: Column names present in both.
        spine_timestamp: The spine's time column.
        ttl_seconds: Time to live of a feature row; None for no limit.

    Returns:
        int64 [spine rows]: row positions into `features`, ABSENT where nothing was known.

    Raises:
        ValueError: A timestamp is null.
    """
    asked_key, row_key = entity_codes(spine, features, join_keys)
    return latest_known(
        asked_key,
        microseconds(spine, spine_timestamp),
        row_key,
        microseconds(features, "event_timestamp"),
        microseconds(features, "created_timestamp"),
        None if ttl_seconds is None else round(ttl_seconds * 1_000_000),
    )


def microseconds(table: pa.Table, column: str) -> IntArray:
    """A timestamp column as int64 microseconds since the epoch (UTC).

    Raises:
        ValueError: The column holds a null.
    """
    values = table.column(column)
    if values.null_count:
        raise ValueError(f"{column} holds {values.null_count} nulls; a point in time is required")
    dtype = pa.timestamp("us", tz=values.type.tz)
    return values.cast(dtype).cast(pa.int64()).to_numpy()


def _never_superseded(key: IntArray, event: IntArray, created: IntArray) -> NDArray[np.bool_]:
    """Mask of the rows that are the best known of their key at the moment they become available.

    A late correction of an older event never beats the newer event already known. Expects rows
    sorted by key and availability.
    """
    order = np.lexsort((created, event))
    rank = np.empty(len(key), dtype=np.int64)
    rank[order] = np.arange(len(key))
    # Ties in (event, created) get equal ranks: the later one in input order may replace the first.
    tied = (np.diff(event[order]) == 0) & (np.diff(created[order]) == 0)
    first = np.arange(len(key))
    first[1:][tied] = 0
    rank[order] = np.maximum.accumulate(first)
    dense_key = np.cumsum(np.concatenate([[0], np.diff(key) != 0]))
    packed = dense_key * len(key) + rank
    return packed >= np.maximum.accumulate(packed)
