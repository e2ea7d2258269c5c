"""Decodes and validates the body of a predict request, naming the field that is wrong.

The decoder is made once from a manifest's request schema; msgspec then checks types while it
parses. Fields the schema does not know are ignored, so that clients may send a new field before,
and after a rollback of, the version that reads it.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

import msgspec

from flywheel_serving.errors import ServingError
from flywheel_serving.manifest import RequestField, RequestSchema
from flywheel_serving.repository import MAX_BATCH

_TYPES: dict[str, Any] = {
    "string": str,
    "float": float,
    "int": int,
    "timestamp": Annotated[datetime, msgspec.Meta(tz=True)],
}
_FIELD = re.compile(r"(?:at `\$\.|field `)([^`]+)`")


class RequestDecoder:
    """Decodes the predict requests of one model.

    Args:
        schema: The request schema of its manifest.
    """

    def __init__(self, schema: RequestSchema) -> None:
        self._names = [field.name for field in schema.fields]
        # Field names need not be Python names, so the attributes are f0, f1, ... in that order.
        slots = [self._slot(index, field) for index, field in enumerate(schema.fields)]
        renames = {f"f{index}": name for index, name in enumerate(self._names)}
        row = msgspec.defstruct("Row", slots, rename=renames, kw_only=True, frozen=True, gc=False)
        instances: Any = Annotated[list[row], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]
        batch = msgspec.defstruct("Batch", [("instances", instances)])
        outline = msgspec.defstruct("Outline", [("instances", msgspec.Raw, msgspec.Raw(b""))])
        raws = msgspec.defstruct("Raws", [("instances", list[msgspec.Raw])])
        self._row = msgspec.json.Decoder(row)
        self._batch: msgspec.json.Decoder[Any] = msgspec.json.Decoder(batch)
        self._outline: msgspec.json.Decoder[Any] = msgspec.json.Decoder(outline)
        self._raws: msgspec.json.Decoder[Any] = msgspec.json.Decoder(raws)

    @staticmethod
    def _slot(index: int, field: RequestField) -> Any:
        dtype = _TYPES[field.dtype]
        if field.nullable:
            return (f"f{index}", dtype | None, None)
        return (f"f{index}", dtype)

    def is_batch(self, body: bytes) -> bool:
        """Whether a body is ``{"instances": [...]}``."""
        if b'"instances"' not in body:
            return False
        try:
            return bool(bytes(self._outline.decode(body).instances))
        except msgspec.DecodeError:
            return False

    def single(self, body: bytes) -> dict[str, Any]:
        """Decode one case into its declared fields; timestamps become aware datetimes.

        Raises:
            ServingError: 422, naming the field.
        """
        try:
            row = self._row.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._refusal(error) from error
        return dict(zip(self._names, msgspec.structs.astuple(row), strict=True))

    def batch(self, body: bytes) -> list[dict[str, Any]]:
        """Decode a batch of at most ``MAX_BATCH`` cases.

        Raises:
            ServingError: 422, naming the instance and the field.
        """
        try:
            rows = self._batch.decode(body).instances
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._batch_refusal(body, error) from error
        names = self._names
        return [dict(zip(names, msgspec.structs.astuple(row), strict=True)) for row in rows]

    def _refusal(self, error: Exception, where: str = "") -> ServingError:
        text = str(error)
        found = _FIELD.search(text)
        field = found[1] if found else None
        reason = re.sub(r" - at `\$[^`]*`", "", text)
        if field is None:
            message = f"The body{where} is not a JSON object with the model's fields: {reason}."
        elif "missing required" in text:
            message = f"The field '{field}'{where} is missing; add it."
        else:
            message = f"The field '{field}'{where} is wrong: {reason}."
            if "datetime" in text or "RFC3339" in text or "timezone" in text:
                message += " Write a time as 2013-05-04T14:03:00-04:00, with its offset."
        return ServingError(422, message, field)

    def _batch_refusal(self, body: bytes, error: Exception) -> ServingError:
        """Find the instance at fault: msgspec does not say which one it is."""
        try:
            raws = self._raws.decode(body).instances
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ServingError(422, f"'instances' is not a list of objects: {error}.", "instances")
        if not 1 <= len(raws) <= MAX_BATCH:
            message = f"'instances' holds {len(raws)} cases; send 1 to {MAX_BATCH} in one request."
            return ServingError(422, message, "instances")
        for index, raw in enumerate(raws):
            try:
                self._row.decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError) as cause:
                return self._refusal(cause, f" of instance {index}")
        return ServingError(422, f"The batch is malformed: {error}.", "instances")
