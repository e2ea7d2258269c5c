"""The resources of the code location, from the settings."""

from typing import Any

from flywheel.settings import Settings
from resources.checkpoints import CheckpointFolder
from resources.feature_store import FeatureStore
from resources.io_manager import IcebergIOManager
from resources.lakehouse import Lakehouse
from resources.registry import Registry
from resources.serving import Serving
from resources.sweeps import Sweeps
from resources.trials import Trials


def default_resources(settings: Settings) -> dict[str, Any]:
    """Every resource by key."""
    lakehouse = Lakehouse(catalog_uri=settings.lake_catalog_uri, warehouse=settings.lake_warehouse)
    return {
        "lakehouse": lakehouse,
        "io_manager": IcebergIOManager(lakehouse=lakehouse),
        "feature_store": FeatureStore(
            registry=settings.feast_registry_uri,
            online_store=settings.online_store_address,
            catalog_uri=lakehouse.catalog_uri,
            warehouse=lakehouse.warehouse,
        ),
        "registry": Registry(
            tracking_uri=settings.tracking_uri,
            artifact_root=settings.artifacts,
            ui_url=settings.mlflow_url,
            bundle_cache=str(settings.folder("bundles")),
            cpu_hour_price=settings.cpu_hour_price,
        ),
        "checkpoints": CheckpointFolder(folder=str(settings.home.absolute() / "checkpoints")),
        "sweeps": Sweeps(
            folder=str(settings.home.absolute() / "sweeps"),
            url=settings.sweep_storage,
            tracking_uri=settings.tracking_uri,
        ),
        "serving": Serving(
            url=settings.gateway_url,
            spool=str(settings.spool),
            admin_token=settings.admin_token,
        ),
        "trials": Trials(triton_venv=str(settings.triton_venv.absolute())),
    }
