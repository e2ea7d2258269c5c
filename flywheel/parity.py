"""Whether the gateway's inputs are the ones that training would have used.

A value is the same or it is not: no tolerance. Whatever differs is named, with both values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Value = float | str | None


@dataclass(frozen=True)
class Difference:
    """One input that is not the same.

    Attributes:
        case: Entity id of the request.
        event_timestamp: The moment it asks about.
        input: Name of the model's input.
        source: Where the input comes from, e.g. `view:carrier_delays:arr_delay_7d`.
        entity: Join keys of the view, e.g. `carrier=UA`; empty for an input of the request itself.
        online: What the gateway would have used.
        offline: What training would have used.
    """

    case: str
    event_timestamp: datetime
    input: str
    source: str
    entity: str
    online: Value
    offline: Value


@dataclass(frozen=True)
class ParityReport:
    """The comparison of some requests.

    Attributes:
        requests: Requests compared.
        values: Inputs compared, over all of them.
        differences: Every input that was not the same.
    """

    requests: int
    values: int
    differences: tuple[Difference, ...]

    @property
    def sentence(self) -> str:
        """The result in words."""
        if not self.differences:
            return f"{self.requests:,} requests, {self.values:,} values: none differs"
        first = self.differences[0]
        return (
            f"{len(self.differences):,} of {self.values:,} values differ; first {first.source} "
            f"({first.entity or first.case}) at {first.event_timestamp.isoformat()}: online "
            f"{first.online!r}, offline {first.offline!r}"
        )


@dataclass(frozen=True)
class Asked:
    """One request, as both sides answer it.

    Attributes:
        case: Entity id.
        event_timestamp: Moment, aware.
        fields: The request, and what was worked out from it; join keys are looked up here.
        online: Value by input name, as the gateway has it.
        offline: Value by input name, as the offline join has it; None or NaN where missing.
    """

    case: str
    event_timestamp: datetime
    fields: Mapping[str, Any]
    online: Mapping[str, Value]
    offline: Mapping[str, Value]


@dataclass(frozen=True)
class InputSource:
    """What has to be known of an input to compare it.

    Attributes:
        name: The input.
        source: Its source, as in `flywheel.model.Input`.
        default: Stands in for a missing value on both sides.
        join_keys: Join keys of its view; empty if it has none.
    """

    name: str
    source: str
    default: Value
    join_keys: Sequence[str]


def compare(asked: Sequence[Asked], inputs: Sequence[InputSource]) -> ParityReport:
    """Compare every input of every request."""
    differences = []
    for one in asked:
        for source in inputs:
            online = one.online[source.name]
            offline = one.offline[source.name]
            if _missing(offline):
                offline = source.default
            if _missing(online) and _missing(offline):
                continue
            # 1.0 equals True and 1: the kinds must be the same, too.
            if online != offline or isinstance(online, str) != isinstance(offline, str):
                entity = ", ".join(f"{key}={one.fields.get(key)}" for key in source.join_keys)
                differences.append(
                    Difference(
                        one.case, one.event_timestamp, source.name, source.source, entity,
                        online, offline,
                    )
                )  # fmt: skip
    return ParityReport(len(asked), len(asked) * len(inputs), tuple(differences))


def _missing(value: Value) -> bool:
    return value is None or value != value  # not a number is not itself
