"""From request, transform outputs and feature rows to the model's input vector.

One definition of defaults, expiry, ages and category codes, in two speeds:
:meth:`Vectorizer.vector` for one request in the gateway and :meth:`Vectorizer.matrix` for columns
in training. Tests hold them equal. No I/O here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from flywheel_serving.manifest import Manifest, ModelInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NAN = float("nan")


class FeatureError(ValueError):
    """An input value has a type the model cannot use, or the transform did not return it."""


class Row(NamedTuple):
    """One row of a feature view.

    Attributes:
        values: Value by feature name; None for null.
        event_timestamp: When the row became true, in seconds since the epoch (UTC).
    """

    values: Mapping[str, float | int | str | bool | None]
    event_timestamp: float


class Vector(NamedTuple):
    """The model's input for one case.

    Attributes:
        numeric: The row of the FP32 tensor, before the cast to float32.
        categorical: The row of the INT64 tensor.
        defaulted: Names of view and age inputs that were missing, in the model's order.
        features: Input name to value, for the log: the number (NaN where it is missing), or the
            category as text (None where it is missing).
        stale: Names of the views whose row was absent or older than its TTL.
    """

    numeric: list[float]
    categorical: list[int]
    defaulted: list[str]
    features: dict[str, float | str | None]
    stale: list[str]


@dataclass(frozen=True)
class ViewColumns:
    """Feature rows as columns, one element per case.

    Attributes:
        values: Column by feature name; NaN or None for null.
        event_timestamp: float64 seconds since the epoch, NaN where there is no row.
    """

    values: Mapping[str, npt.NDArray[Any]]
    event_timestamp: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Matrix:
    """The model's input for many cases.

    Attributes:
        numeric: float32 of shape [n, numbers].
        categorical: int64 of shape [n, categories].
        defaulted: bool of shape [n, inputs], true where a view or age input was missing.
    """

    numeric: npt.NDArray[np.float32]
    categorical: npt.NDArray[np.int64]
    defaulted: npt.NDArray[np.bool_]


class _Slot(NamedTuple):
    """Where one input goes: its place in the model, in its tensor, and how to read it."""

    place: int
    column: int
    name: str
    key: str
    codes: dict[str, int] | None


class _ViewPlan(NamedTuple):
    name: str
    ttl: float | None
    slots: list[_Slot]
    ages: list[_Slot]


def category_text(value: object, name: str) -> str:
    """Text under which a category is looked up: strings as they are, 5 as ``5``, True as ``true``.

    Raises:
        FeatureError: For a value of any other type.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise FeatureError(
        f"Input '{name}' is a category, but its value is {value!r}; give text, an integer "
        "or a boolean."
    )


class Vectorizer:
    """Makes the input vectors of one model from its manifest.

    Raises:
        ManifestError: If an input refers to a view that the manifest lacks.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._number_names = [item.name for item in manifest.numbers]
        self._category_names = [item.name for item in manifest.categories]
        self._numbers = [_number_default(item) for item in manifest.numbers]
        self._texts = [_text_default(item) for item in manifest.categories]
        self._codes = [
            _codes(item).get(text, 0) if text is not None else 0
            for item, text in zip(manifest.categories, self._texts, strict=True)
        ]
        self._request: list[_Slot] = []
        self._transform: list[_Slot] = []
        plans = {
            view.name: _ViewPlan(view.name, view.ttl_seconds, [], [])
            for view in manifest.feature_views
        }
        columns = {"number": 0, "category": 0}
        for place, item in enumerate(manifest.inputs):
            origin, *names = item.source.split(":")
            codes = _codes(item) if item.kind == "category" else None
            slot = _Slot(place, columns[item.kind], item.name, names[-1], codes)
            columns[item.kind] += 1
            if origin == "request":
                self._request.append(slot)
            elif origin == "transform":
                self._transform.append(slot)
            elif origin == "view":
                plans[manifest.view(names[0]).name].slots.append(slot)
            else:
                plans[manifest.view(names[0]).name].ages.append(slot)
        self._views = [plan for plan in plans.values() if plan.slots or plan.ages]

    @property
    def manifest(self) -> Manifest:
        """The manifest this vectorizer was made from."""
        return self._manifest

    def vector(
        self,
        request: Mapping[str, Any],
        transformed: Mapping[str, Any],
        rows: Mapping[str, Row | None],
        event_timestamp: float,
    ) -> Vector:
        """Make the vector of one case.

        Args:
            request: The request's fields; null ones may be absent.
            transformed: What the transform returned; empty if there is none.
            rows: Row by feature view, None (or absent) where the store has none.
            event_timestamp: The request's event timestamp, in seconds since the epoch.

        Raises:
            FeatureError: If a value has the wrong type or the transform left one out.
        """
        numeric = self._numbers.copy()
        categorical = self._codes.copy()
        texts = self._texts.copy()
        missing: list[tuple[int, str]] = []
        stale: list[str] = []

        for slot in self._request:
            value = request.get(slot.key)
            if value is not None:
                _put(slot, value, numeric, categorical, texts)
        for slot in self._transform:
            if slot.key not in transformed:
                raise FeatureError(
                    f"The transform did not return '{slot.key}', which input '{slot.name}' needs."
                )
            value = transformed[slot.key]
            if value is not None:
                _put(slot, value, numeric, categorical, texts)
        for plan in self._views:
            row = rows.get(plan.name)
            if row is None or (
                plan.ttl is not None and event_timestamp - row.event_timestamp > plan.ttl
            ):
                missing.extend((slot.place, slot.name) for slot in plan.slots)
                missing.extend((slot.place, slot.name) for slot in plan.ages)
                stale.append(plan.name)
                continue
            get = row.values.get
            for slot in plan.slots:
                value = get(slot.key)
                # NaN is missing too (it is unequal to itself): pandas cannot tell it from null.
                if value is None or value != value:
                    missing.append((slot.place, slot.name))
                elif slot.codes is None and type(value) is float:
                    numeric[slot.column] = value
                else:
                    _put(slot, value, numeric, categorical, texts)
            for slot in plan.ages:
                numeric[slot.column] = (event_timestamp - row.event_timestamp) / 60.0

        features: dict[str, float | str | None] = dict(
            zip(self._number_names, numeric, strict=True)
        )
        features.update(zip(self._category_names, texts, strict=True))
        missing.sort()
        return Vector(numeric, categorical, [name for _, name in missing], features, stale)

    def matrix(
        self,
        request: Mapping[str, npt.NDArray[Any]],
        transformed: Mapping[str, npt.NDArray[Any]],
        views: Mapping[str, ViewColumns],
        event_timestamp: npt.NDArray[np.float64],
    ) -> Matrix:
        """Make the vectors of many cases from columns of length n.

        Args:
            request: Column by request field.
            transformed: Column by output of the transform.
            views: Columns by feature view, already joined to the cases.
            event_timestamp: The cases' event timestamps, float64 seconds since the epoch.

        Returns:
            The same values :meth:`vector` gives case by case, cast to float32 and int64.

        Raises:
            FeatureError: If a column is absent or holds values of the wrong type.
        """
        import numpy as np

        count = len(event_timestamp)
        numeric = np.tile(np.array(self._numbers, np.float64), (count, 1))
        categorical = np.tile(np.array(self._codes, np.int64), (count, 1))
        defaulted = np.zeros((count, len(self._manifest.inputs)), np.bool_)
        everywhere = np.ones(count, np.bool_)
        for slots, columns, origin in (
            (self._request, request, "request field"),
            (self._transform, transformed, "output of the transform"),
        ):
            for slot in slots:
                values = _column(columns, slot, origin)
                _put_column(slot, values, everywhere, numeric, categorical)
        for plan in self._views:
            if plan.name not in views:
                raise FeatureError(f"The columns of feature view '{plan.name}' are absent.")
            columns = views[plan.name]
            age = event_timestamp - columns.event_timestamp
            fresh = ~np.isnan(age) if plan.ttl is None else age <= plan.ttl
            for slot in plan.slots:
                values = _column(columns.values, slot, f"feature of view '{plan.name}'")
                present = _put_column(slot, values, fresh, numeric, categorical)
                defaulted[:, slot.place] = ~present
            for slot in plan.ages:
                numeric[fresh, slot.column] = age[fresh] / 60.0
                defaulted[:, slot.place] = ~fresh
        with np.errstate(over="ignore"):
            return Matrix(numeric.astype(np.float32), categorical, defaulted)


def _number_default(item: ModelInput) -> float:
    return NAN if item.default is None else float(item.default)


def _text_default(item: ModelInput) -> str | None:
    return None if item.default is None else str(item.default)


def _codes(item: ModelInput) -> dict[str, int]:
    return {text: index for index, text in enumerate(item.vocabulary or [], start=1)}


def _put(
    slot: _Slot,
    value: object,
    numeric: list[float],
    categorical: list[int],
    texts: list[str | None],
) -> None:
    """Store one value that is not null; NaN leaves the default in place."""
    if slot.codes is None:
        if not isinstance(value, (int, float)):
            raise FeatureError(f"Input '{slot.name}' is a number, but its value is {value!r}.")
        if value == value:
            numeric[slot.column] = float(value)
    elif value == value:
        text = category_text(value, slot.name)
        texts[slot.column] = text
        categorical[slot.column] = slot.codes.get(text, 0)


def _column(columns: Mapping[str, npt.NDArray[Any]], slot: _Slot, origin: str) -> npt.NDArray[Any]:
    if slot.key not in columns:
        raise FeatureError(f"Input '{slot.name}' needs the {origin} '{slot.key}', which is absent.")
    return columns[slot.key]


def _put_column(
    slot: _Slot,
    values: npt.NDArray[Any],
    usable: npt.NDArray[np.bool_],
    numeric: npt.NDArray[np.float64],
    categorical: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Store a column where it is usable and not null; returns where that was."""
    import numpy as np

    if values.dtype == object:
        # `v == v` is false for NaN and pandas.NaT, so one test finds every kind of null.
        nulls = np.fromiter((v is None or v != v for v in values), np.bool_, len(values))
    elif values.dtype.kind == "f":
        nulls = np.isnan(values)
    else:
        nulls = np.zeros(len(values), np.bool_)
    present = usable & ~nulls
    chosen = values[present]
    if slot.codes is None:
        kinds = {type(value) for value in chosen} if chosen.dtype == object else {chosen.dtype.type}
        if not all(issubclass(kind, (int, float, np.number, np.bool_)) for kind in kinds):
            raise FeatureError(
                f"Input '{slot.name}' is a number, but its column holds other types."
            )
        numeric[present, slot.column] = chosen.astype(np.float64)
    else:
        codes = slot.codes
        categorical[present, slot.column] = np.fromiter(
            (codes.get(category_text(v, slot.name), 0) for v in chosen.tolist()),
            np.int64,
            len(chosen),
        )
    return present
