"""Where everything is: the `FLYWHEEL_*` variables, typed, in one place.

The defaults are the laptop's: one folder holds all state. A cluster sets the addresses instead.
`.env.example` lists every variable.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Addresses and folders; each field is the variable `FLYWHEEL_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="FLYWHEEL_", frozen=True)

    home: Path = Field(ROOT / ".flywheel", description="Folder of all local state.")
    catalog_uri: str | None = Field(None, description="Iceberg SQL catalog; default SQLite in home.")
    warehouse: str | None = Field(None, description="Iceberg warehouse; default a folder in home.")
    mlflow_uri: str | None = Field(None, description="MLflow tracking; default SQLite in home.")
    gateway_url: str = Field("http://127.0.0.1:8900", description="The serving gateway.")
    mlflow_url: str = Field("http://127.0.0.1:5050", description="The MLflow UI.")
    dagster_url: str = Field("http://127.0.0.1:3000", description="The Dagster UI.")
    admin_token: str | None = Field(None, description="Bearer token of the gateway's admin calls.")
    triton_venv: Path = Field(ROOT / ".venv-triton", description="Environment with Triton's wheel.")

    @cached_property
    def lake_catalog_uri(self) -> str:
        """Iceberg catalog address."""
        return self.catalog_uri or f"sqlite:///{self.folder('lake')}/catalog.db"

    @cached_property
    def lake_warehouse(self) -> str:
        """Iceberg warehouse address."""
        return self.warehouse or f"file://{self.folder('lake')}/warehouse"

    @cached_property
    def tracking_uri(self) -> str:
        """MLflow tracking address."""
        return self.mlflow_uri or f"sqlite:///{self.folder('mlflow')}/mlflow.db"

    @property
    def artifacts(self) -> str:
        """Where MLflow keeps artifacts when it is embedded."""
        return f"file://{self.folder('mlflow')}/artifacts"

    @property
    def feast(self) -> Path:
        """Folder of the Feast registry and the embedded online store."""
        return self.folder("feast")

    @property
    def online_store(self) -> Path:
        """The embedded online store."""
        return self.feast / "online.db"

    @property
    def serving(self) -> Path:
        """Work folder of the gateway and Triton."""
        return self.folder("serving")

    @property
    def spool(self) -> Path:
        """Folder of the durable prediction log."""
        return self.serving / "spool"

    @property
    def dagster_home(self) -> Path:
        """Dagster's instance folder."""
        return Path(os.environ.get("DAGSTER_HOME", "") or self.folder("dagster"))

    def folder(self, name: str) -> Path:
        """A folder of the local state, made if it is not there."""
        path = self.home.absolute() / name
        path.mkdir(parents=True, exist_ok=True)
        return path
