"""What of a classified request field may be written to the prediction log: a pseudonym, or nothing.

A pseudonym is a keyed hash: equal values have equal pseudonyms, so that rows can be counted and
joined, and nobody without the key can tell or try out what they stand for.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flywheel_serving.manifest import Manifest

_LENGTH = 32


class Pseudonyms:
    """Masks the classified fields of one model's requests, and the inputs read from them.

    Args:
        manifest: Says which request fields are classified.
        key: The secret; None leaves classified values out.
    """

    def __init__(self, manifest: Manifest, key: str | None) -> None:
        self._key = key.encode() if key else None
        self._fields = {field.name for field in manifest.request.fields if field.classification}
        self._inputs = [
            item
            for item in manifest.inputs
            if item.source.startswith("request:")
            and item.source.removeprefix("request:") in self._fields
        ]

    def request(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields with pseudonyms instead of classified values; without a key, less those."""
        if not self._fields:
            return fields
        if self._key is None:
            return {name: value for name, value in fields.items() if name not in self._fields}
        return {
            name: self._pseudonym(value) if name in self._fields else value
            for name, value in fields.items()
        }

    def features(
        self, features: Mapping[str, float | str | None]
    ) -> Mapping[str, float | str | None]:
        """The inputs with pseudonyms instead of classified categories, and null for numbers."""
        if not self._inputs:
            return features
        masked = dict(features)
        for item in self._inputs:
            known = item.kind == "category" and self._key is not None
            masked[item.name] = self._pseudonym(masked[item.name]) if known else None
        return masked

    def _pseudonym(self, value: object) -> str | None:
        if value is None or self._key is None:
            return None
        text = value.isoformat() if isinstance(value, datetime) else str(value)
        return hmac.digest(self._key, text.encode(), "sha256").hex()[:_LENGTH]
