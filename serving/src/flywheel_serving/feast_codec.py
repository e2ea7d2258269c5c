"""Feast's wire formats, written out by hand: the entity key (version 3) and the value.

Layouts of Feast 0.67, ``feast/infra/key_encoding_utils.py`` and ``feast/protos/feast/types/
Value.proto``. Tests hold both equal to the Feast SDK. Importing Feast for this would cost the
server seconds of start-up and a hundred megabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from flywheel_serving.manifest import JoinKey

_STRING, _INT64 = 2, 4  # ValueType.Enum
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types
_DOUBLE_TAG = 5 << 3 | _FIXED64
_double = struct.Struct("<xd").unpack


class CodecError(ValueError):
    """Bytes or values that do not follow Feast's layout."""


class EntityKeyEncoder:
    """Serializes entity keys of one feature view as Feast does.

    Args:
        join_keys: The view's join keys; Feast sorts them by name.
    """

    def __init__(self, join_keys: Sequence[JoinKey]) -> None:
        order = sorted(range(len(join_keys)), key=lambda index: join_keys[index].name)
        self._parts = [(index, join_keys[index]) for index in order]
        prefix = struct.pack("<I", len(order))
        for _, key in self._parts:
            name = key.name.encode()
            prefix += struct.pack("<II", _STRING, len(name)) + name
        self._prefix = prefix

    def encode(self, values: Sequence[object]) -> bytes:
        """Serialize one key.

        Args:
            values: str or int per join key, in the order given to the constructor.

        Raises:
            CodecError: If a value does not have its key's type.
        """
        output = self._prefix
        for index, key in self._parts:
            value = values[index]
            if key.dtype == "string" and isinstance(value, str):
                data = value.encode()
                output += struct.pack("<II", _STRING, len(data)) + data
            elif (
                key.dtype == "int64"
                and isinstance(value, int)
                and -(2**63) <= value < 2**63
                and not isinstance(value, bool)
            ):
                output += struct.pack("<IIq", _INT64, 8, value)
            else:
                raise CodecError(f"Join key '{key.name}' must be a {key.dtype}, not {value!r}.")
        return output


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7


def decode_value(data: bytes) -> float | int | str | bool | None:
    """Decode a serialized ``feast.types.Value``; null for the empty message and ``null_val``.

    Raises:
        CodecError: If the bytes are damaged or hold a type other than string, integer, double,
            float or bool.
    """
    if not data:
        return None
    if len(data) == 9 and data[0] == _DOUBLE_TAG:  # what most values are
        return _double(data)[0]
    field, wire = data[0] >> 3, data[0] & 7
    try:
        if field == 6 and wire == _FIXED32:
            return struct.unpack_from("<f", data, 1)[0]
        if field == 2 and wire == _BYTES:
            length, start = _varint(data, 1)
            if start + length != len(data):
                raise CodecError("A text value of the online store is cut short.")
            return data[start:].decode()
        if field in (3, 4) and wire == _VARINT:
            number, _ = _varint(data, 1)
            return number - 2**64 if number >= 2**63 else number
        if field == 7 and wire == _VARINT:
            return bool(_varint(data, 1)[0])
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise CodecError(f"A value of the online store is damaged: {error}.") from error
    if len(data) >= 2 and data[0] == 0x98 and data[1] == 0x01:  # field 19: null_val
        return None
    raise CodecError(
        f"The online store holds a value of an unsupported type (tag {data[:2].hex()}); supported "
        "are string, integer, double, float and bool."
    )


def decode_timestamp(data: bytes) -> float:
    """Epoch seconds of a serialized ``google.protobuf.Timestamp``.

    Raises:
        CodecError: If the bytes are something else.
    """
    seconds = nanos = 0
    position = 0
    try:
        while position < len(data):
            tag = data[position]
            number, position = _varint(data, position + 1)
            if tag == 1 << 3 | _VARINT:
                seconds = number - 2**64 if number >= 2**63 else number
            elif tag == 2 << 3 | _VARINT:
                nanos = number
            else:
                raise CodecError(f"The event time {data.hex()} of the online store is no time.")
    except IndexError as error:
        raise CodecError(
            f"The event time {data.hex()} of the online store is cut short."
        ) from error
    return seconds + nanos / 1e9
