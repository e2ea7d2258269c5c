"""The manifest of a bundle: what a deployed model expects, in which order, from where.

Only value types and their consistency rules live here; files and hashes are the business of
:mod:`flywheel_serving.bundle`. Nothing heavier than msgspec may be imported.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

import msgspec

RequestType = Literal["string", "float", "int", "timestamp"]
"""Types a request field may have; ``timestamp`` is RFC 3339 with an offset."""

KeyType = Literal["string", "int64"]
FeatureType = Literal["double", "float", "int64", "string", "bool"]
InputKind = Literal["number", "category"]
Classification = Literal["pii", "sensitive"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class ManifestError(ValueError):
    """A manifest contradicts itself; the message names the part and says what to change."""


class _Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all manifest values: immutable, and strict about unknown keys."""


class RequestField(_Value, frozen=True):
    """One field of the predict request.

    Attributes:
        name: Key in the JSON object.
        dtype: JSON type; ``timestamp`` is an RFC 3339 string with an offset.
        nullable: Whether the field may be null or absent.
        classification: Whether its values identify a person or are otherwise confidential; such
            values are never written to the prediction log in the clear.
    """

    name: str
    dtype: RequestType
    nullable: bool = False
    classification: Classification | None = None


class RequestSchema(_Value, frozen=True):
    """What a predict request must contain.

    Attributes:
        entity_id: Name of the field that identifies the case, e.g. ``flight_id``.
        event_timestamp: Name of the timestamp field that says when the case happens.
        fields: Every field of the request.
    """

    entity_id: str
    event_timestamp: str
    fields: list[RequestField]


class JoinKey(_Value, frozen=True):
    """One join key of a feature view.

    Attributes:
        name: Name of the key in the feature store.
        dtype: Its type there.
        source: ``request:FIELD`` or ``transform:NAME``. None means the request field of the same
            name or, when there is none, the transform's output of that name.
    """

    name: str
    dtype: KeyType
    source: str | None = None


class ViewFeature(_Value, frozen=True):
    """One feature of a view, with the type Feast stores it under."""

    name: str
    dtype: FeatureType


class FeatureView(_Value, frozen=True):
    """A Feast feature view the model reads online.

    Attributes:
        name: Name of the view.
        join_keys: Its join keys, in any order.
        ttl_seconds: A row older than this, seen from the request's event timestamp, counts as
            missing; None means rows never expire.
        features: The features that are read.
        stale: What happens to a request whose row is absent or expired: its features take their
            ``default``, or it is answered 503 (``refuse``).
    """

    name: str
    join_keys: list[JoinKey]
    features: list[ViewFeature]
    ttl_seconds: float | None = None
    stale: Literal["default", "refuse"] = "default"


class ModelInput(_Value, frozen=True):
    """One element of the model's input vector.

    Attributes:
        name: Name under which it is logged and explained.
        source: ``request:FIELD``, ``transform:NAME``, ``view:VIEW:FEATURE`` or ``age:VIEW``
            (minutes between the request's event timestamp and that of the feature row).
        kind: ``number`` goes to the FP32 tensor, ``category`` to the INT64 tensor.
        default: Used when the value is missing. None means NaN for a number and code 0 for a
            category.
        vocabulary: The known categories; the code of one is 1 + its index, 0 means unknown.
    """

    name: str
    source: str
    kind: InputKind
    default: float | str | None = None
    vocabulary: list[str] | None = None


class Manifest(_Value, frozen=True):
    """Everything the gateway must know about one version of a model.

    Attributes:
        model: Name of the model.
        version: Version in the registry, e.g. ``"3"``.
        created_at: RFC 3339 time at which the bundle was sealed.
        project: Feast project of the feature views.
        request: Schema of the predict request.
        inputs: The model's inputs, in the model's order.
        feature_views: The views that are read online.
        transform: File name of the request-time transform inside the bundle, or None.
        files: SHA-256 (hex) of every file of the bundle but the manifest itself.
        tolerance: Largest allowed absolute difference between a probe's expected and actual
            probability.
        metadata: Free text facts, such as the run id and the commit.
        format: Version of this layout.
    """

    model: str
    version: str
    created_at: str
    project: str
    request: RequestSchema
    inputs: list[ModelInput]
    feature_views: list[FeatureView] = []
    transform: str | None = None
    files: dict[str, str] = {}
    tolerance: float = 1e-5
    metadata: dict[str, str] = {}
    format: Literal[1] = 1

    @property
    def numbers(self) -> list[ModelInput]:
        """Inputs of the tensor ``numeric``, in its order."""
        return [item for item in self.inputs if item.kind == "number"]

    @property
    def categories(self) -> list[ModelInput]:
        """Inputs of the tensor ``categorical``, in its order."""
        return [item for item in self.inputs if item.kind == "category"]

    @property
    def triton_name(self) -> str:
        """Name of this version inside Triton: each version is a Triton model of its own."""
        return f"{self.model}__v{self.version}"

    @property
    def digest(self) -> str:
        """Identity of what this version does: SHA-256 (hex) over all of a sealed manifest.

        The table of files is part of it; ``created_at`` and ``metadata`` are not, so sealing the
        same version twice gives one digest.
        """
        same = msgspec.to_builtins(msgspec.structs.replace(self, created_at="", metadata={}))
        # What this layout learned later counts only where it is used, so that versions sealed
        # before keep their identity.
        for field in same["request"]["fields"]:
            if field["classification"] is None:
                del field["classification"]
        for view in same["feature_views"]:
            if view["stale"] == "default":
                del view["stale"]
        return hashlib.sha256(msgspec.json.encode(same, order="sorted")).hexdigest()

    def view(self, name: str) -> FeatureView:
        """The feature view of that name.

        Raises:
            ManifestError: If the manifest declares no such view.
        """
        for view in self.feature_views:
            if view.name == name:
                return view
        raise ManifestError(
            f"There is no feature view '{name}' in the manifest; declare it in feature_views."
        )

    def key_source(self, key: JoinKey) -> tuple[str, str]:
        """Where the value of a join key comes from: (``request`` or ``transform``, name)."""
        if key.source is not None:
            origin, _, name = key.source.partition(":")
            return origin, name
        if any(field.name == key.name for field in self.request.fields):
            return "request", key.name
        return "transform", key.name


def _unique(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ManifestError(f"{what} '{name}' is declared twice; keep one of them.")
        seen.add(name)


def check_manifest(manifest: Manifest) -> None:
    """Check what types alone cannot: names, references and defaults fit together.

    Raises:
        ManifestError: With a sentence that names the part and what to change.
    """
    for what, text in (("model", manifest.model), ("version", manifest.version)):
        if not _NAME.fullmatch(text):
            raise ManifestError(
                f"The {what} '{text}' may hold only letters, digits, '_', '.' and '-'."
            )
    _check_request(manifest.request)
    _unique("Feature view", [view.name for view in manifest.feature_views])
    for view in manifest.feature_views:
        _check_view(manifest, view)
    _unique("Input", [item.name for item in manifest.inputs])
    if not manifest.inputs:
        raise ManifestError("The model has no inputs; declare at least one.")
    for item in manifest.inputs:
        _check_input(manifest, item)


def _check_request(schema: RequestSchema) -> None:
    fields = {field.name: field for field in schema.fields}
    _unique("Request field", [field.name for field in schema.fields])
    if "instances" in fields:
        raise ManifestError(
            "A request field may not be called 'instances': that key marks a batch; rename it."
        )
    for role, name, dtypes in (
        ("entity_id", schema.entity_id, ("string", "int")),
        ("event_timestamp", schema.event_timestamp, ("timestamp",)),
    ):
        field = fields.get(name)
        if field is None or field.nullable or field.dtype not in dtypes:
            raise ManifestError(
                f"request.{role} is '{name}', which must be a declared request field of type "
                f"{' or '.join(dtypes)} that is not nullable."
            )
        if field.classification is not None:
            raise ManifestError(
                f"request.{role} is '{name}', which is classified as {field.classification}: "
                "predictions are joined with labels by it, so it is logged as it is. Use a field "
                "that tells nothing, such as a surrogate key."
            )


def _check_view(manifest: Manifest, view: FeatureView) -> None:
    _unique(f"Feature of view {view.name}:", [feature.name for feature in view.features])
    _unique(f"Join key of view {view.name}:", [key.name for key in view.join_keys])
    if not view.join_keys:
        raise ManifestError(f"Feature view '{view.name}' has no join key; declare one.")
    fields = {field.name: field for field in manifest.request.fields}
    for key in view.join_keys:
        origin, name = manifest.key_source(key)
        where = f"Join key '{key.name}' of feature view '{view.name}'"
        if origin == "transform" and manifest.transform is not None:
            continue
        if origin != "request" or name not in fields:
            raise ManifestError(
                f"{where} has no source: add a request field '{name}' or a transform that "
                "returns it."
            )
        wanted = "string" if key.dtype == "string" else "int"
        if fields[name].dtype != wanted:
            raise ManifestError(
                f"{where} is {key.dtype}, but the request field '{name}' is "
                f"{fields[name].dtype}; make them equal."
            )


def _check_input(manifest: Manifest, item: ModelInput) -> None:
    where = f"Input '{item.name}'"
    dtype = _source_type(manifest, item, where)
    if item.kind == "number":
        if item.vocabulary is not None or isinstance(item.default, str):
            raise ManifestError(f"{where} is a number: drop its vocabulary and text default.")
        if dtype in ("string", "timestamp"):
            raise ManifestError(f"{where} is a number, but its source is of type {dtype}.")
        return
    if item.vocabulary is None:
        raise ManifestError(f"{where} is a category: declare its vocabulary.")
    _unique(f"Category of input {item.name}:", item.vocabulary)
    if item.default is not None and not isinstance(item.default, str):
        raise ManifestError(f"{where} is a category: its default must be text or null.")
    if dtype in ("float", "double", "timestamp"):
        raise ManifestError(f"{where} is a category, but its source is of type {dtype}.")


def _source_type(manifest: Manifest, item: ModelInput, where: str) -> str | None:
    """Declared type of an input's source; None where it is known only at run time."""
    match item.source.split(":"):
        case ["request", name]:
            for field in manifest.request.fields:
                if field.name == name:
                    return field.dtype
            raise ManifestError(f"{where} reads the request field '{name}', which is not declared.")
        case ["transform", _]:
            if manifest.transform is None:
                raise ManifestError(f"{where} reads a transform, but the bundle has none.")
            return None
        case ["view", view, name]:
            for feature in manifest.view(view).features:
                if feature.name == name:
                    return feature.dtype
            raise ManifestError(
                f"{where} reads feature '{name}', which view '{view}' does not list."
            )
        case ["age", view]:
            manifest.view(view)
            return "double"
        case _:
            raise ManifestError(
                f"{where} has the source '{item.source}'; write request:FIELD, transform:NAME, "
                "view:VIEW:FEATURE or age:VIEW."
            )
