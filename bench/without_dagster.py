"""Lets a process import the domain's functions as plain functions, without Dagster.

The modules under `assets/` import the decorators of `assets.authoring`, and those import Dagster.
Stand-ins that return the function unchanged leave what a script would have: the computation.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


def _undecorated(*_: Any, **__: Any) -> Any:
    return lambda function: function


def pretend() -> None:
    """Put the stand-ins in place; call it before anything of `assets` is imported.

    Raises:
        RuntimeError: Too late: Dagster is here.
    """
    if "dagster" in sys.modules:
        raise RuntimeError("dagster is imported already; run this in a process of its own")
    authoring = ModuleType("assets.authoring")
    store = ModuleType("resources.feature_store")
    vars(authoring).update(
        dataset=_undecorated, feature_view=_undecorated, trailing=_undecorated, AssetContext=object
    )
    vars(store).update(FeatureStore=object)
    sys.modules[authoring.__name__] = authoring
    sys.modules[store.__name__] = store
