"""The point-in-time join over feature rows that arrive in chunks, in order of their events.

Every feature row is read once. Between chunks only those rows are carried that a later question may
still need: the best one known of each entity, and the rows whose creation lies ahead; with a time
to live nothing older than that. So memory is a chunk and the entities, not the length of history.
The answers are those of `flywheel.pit.point_in_time_join` over all rows at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from flywheel.pit import (
    ABSENT,
    ROW_TIMES,
    IntArray,
    Timeline,
    Unit,
    common_unit,
    entity_codes,
    ticks,
    ttl_ticks,
)


class Answers(NamedTuple):
    """Answers to some of the questions.

    Attributes:
        rows: int64 [m] row positions in the spine.
        values: [m] rows of the answered columns, null where nothing was known.
    """

    rows: IntArray
    values: pa.Table


class PointInTimeStream:
    """Answers questions as the feature rows come by.

    A question is answered as soon as no later chunk can hold a row for it.

    Args:
        spine: The questions: join keys and `spine_timestamp`, in any order.
        schema: Schema of the chunks: join keys, `event_timestamp`, `created_timestamp`, features.
        join_keys: Column names present in both.
        columns: What to answer with; all columns of the schema if None.
        spine_timestamp: The spine's time column.
        row_times: The schema's columns for event and creation time; the same twice if a row is
            known at its event.
        ttl_seconds: Time to live of a feature row; None for no limit.

    Raises:
        ValueError: A timestamp is null, has no time zone, or is not there.
    """

    def __init__(
        self,
        spine: pa.Table,
        schema: pa.Schema,
        join_keys: Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        spine_timestamp: str = "event_timestamp",
        row_times: tuple[str, str] = ROW_TIMES,
        ttl_seconds: float | None = None,
    ) -> None:
        self.carried = schema.empty_table()
        self._unit: Unit = common_unit(
            (spine, spine_timestamp), *((self.carried, name) for name in row_times)
        )
        self._row_times = row_times
        self._ttl = ttl_ticks(ttl_seconds, self._unit)
        self._join_keys = list(join_keys)
        self._columns = list(schema.names if columns is None else columns)
        asked_at = ticks(spine, spine_timestamp, self._unit)
        self._order = np.argsort(asked_at, kind="stable")
        self._asked_at = asked_at[self._order]
        self._asked = spine.select(self._join_keys).take(self._order)
        self._answered = 0
        self._newest: int | None = None

    @property
    def done(self) -> bool:
        """Whether every question is answered, so that no further chunk is needed."""
        return self._answered == len(self._order)

    def push(self, chunk: pa.Table) -> Answers:
        """Take the next feature rows; answer the questions asked before the newest of them.

        Args:
            chunk: Rows in any order; their events lie at or after those of earlier chunks.

        Raises:
            ValueError: An event lies before those of an earlier chunk.
        """
        if not chunk.num_rows:
            return self._answer(self._answered, self.carried)
        events = ticks(chunk, self._row_times[0], self._unit)
        if self._newest is not None and events.min() < self._newest:
            raise ValueError(
                "a chunk of feature rows holds events before those of an earlier chunk; chunks "
                f"must come in the order of {self._row_times[0]}"
            )
        self._newest = int(events.max())
        rows = pa.concat_tables([self.carried, chunk], promote_options="permissive")
        # At the newest moment itself a later chunk may still hold rows.
        return self._answer(int(np.searchsorted(self._asked_at, self._newest, "left")), rows)

    def finish(self) -> Answers:
        """Answer the remaining questions: there are no more feature rows."""
        return self._answer(len(self._order), self.carried)

    def _answer(self, stop: int, rows: pa.Table) -> Answers:
        """Answer the questions up to a place in time order from rows; carry what remains useful."""
        start, self._answered = self._answered, stop
        asked_key, row_key = entity_codes(
            self._asked.slice(start, stop - start), rows, self._join_keys
        )
        timeline = Timeline.of(
            row_key, *(ticks(rows, name, self._unit) for name in self._row_times)
        )
        position = timeline.latest(asked_key, self._asked_at[start:stop], self._ttl)
        if rows is not self.carried and self._newest is not None:
            self.carried = rows.take(timeline.still_needed(self._newest, self._ttl))
        return Answers(self._order[start:stop], take_known(rows.select(self._columns), position))


def answers_in_order(
    stream: PointInTimeStream, chunks: Iterable[pa.Table], spine_rows: int
) -> pa.Table:
    """Run a stream over its chunks.

    Args:
        stream: Not yet fed.
        chunks: Feature rows in the order of their events; not read past the last question.
        spine_rows: Number of questions.

    Returns:
        [spine rows] the answered columns, in the order of the spine.
    """
    answers: list[Answers] = []
    pending = iter(chunks)
    while not stream.done:
        # Asked for anew each time, so that a chunk is gone before the next one is read.
        chunk = next(pending, None)
        if chunk is None:
            break
        answers.append(stream.push(chunk))
        del chunk
    answers.append(stream.finish())
    values = pa.concat_tables([one.values for one in answers], promote_options="permissive")
    asked = np.concatenate([one.rows for one in answers])
    if np.array_equal(asked, np.arange(spine_rows)):
        return values
    place = np.empty(spine_rows, dtype=np.int64)
    place[asked] = np.arange(spine_rows)
    return values.take(place)


def take_known(rows: pa.Table, position: IntArray) -> pa.Table:
    """Rows at positions, all null where the position is ABSENT."""
    if not rows.num_rows:
        return pa.table(
            {field.name: pa.nulls(len(position), field.type) for field in rows.schema},
        )
    known = pa.array(position, pa.int64(), mask=position == ABSENT)
    return rows.take(known)  # pyright: ignore[reportArgumentType] - the stubs lose the type
