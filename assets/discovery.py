"""Finds what the domains declare. A domain is a folder here; nothing has to be registered."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

import assets
from flywheel.dataset import Dataset
from flywheel.features import FeatureView
from flywheel.model import ModelSpec

# Folders and modules of this package that are not domains.
NOT_DOMAINS = {"lifecycle"}


@dataclass(frozen=True)
class Domain:
    """A folder under `assets/`: its modules, and the models declared in them."""

    name: str
    modules: tuple[ModuleType, ...]
    models: tuple[ModelSpec, ...]

    @property
    def datasets(self) -> dict[str, Dataset]:
        """What its tables promise, feature views included, by `domain.table`."""
        found = {
            value.name: value.dataset if isinstance(value, FeatureView) else value
            for module in self.modules
            for value in vars(module).values()
            if isinstance(value, Dataset | FeatureView)
        }
        return {f"{self.name}.{name}": found[name] for name in sorted(found)}

    @property
    def owner(self) -> str:
        """Who answers for what belongs to the domain as a whole: the owner of its first model."""
        return self.models[0].owner


@cache
def domains() -> tuple[Domain, ...]:
    """All domains, by name.

    Raises:
        ValueError: Two models have the same name.
    """
    found = []
    for folder in sorted(pkgutil.iter_modules(assets.__path__), key=lambda m: m.name):
        if not folder.ispkg or folder.name in NOT_DOMAINS:
            continue
        package = import_module(f"assets.{folder.name}")
        modules = tuple(
            import_module(f"{package.__name__}.{module.name}")
            for module in pkgutil.iter_modules(package.__path__)
        )
        models = {
            id(value): value
            for module in modules
            for value in vars(module).values()
            if isinstance(value, ModelSpec)
        }
        found.append(Domain(folder.name, modules, tuple(models.values())))
    names = [spec.name for domain in found for spec in domain.models]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"models {sorted(repeated)} are declared twice; names must be unique")
    return tuple(found)
