"""Where everything is: the `FLYWHEEL_*` variables, typed, in one place.

The defaults are the laptop's: one folder holds all state. A cluster sets the addresses instead.
`.env.example` lists every variable.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Addresses and folders; each field is the variable `FLYWHEEL_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="FLYWHEEL_", frozen=True)

    home: Path = Field(default=ROOT / ".flywheel", description="Folder of all local state.")
    catalog_uri: str | None = Field(
        default=None, description="Iceberg SQL catalog; default SQLite in home."
    )
    warehouse: str | None = Field(
        default=None, description="Iceberg warehouse; default a folder in home."
    )
    mlflow_uri: str | None = Field(
        default=None, description="MLflow tracking; default SQLite in home."
    )
    gateway_url: str = Field(
        default="", description="The serving gateway; default: the one `up` started."
    )
    mlflow_url: str = Field(default="", description="The MLflow UI; default: the one `up` started.")
    online_store: str = Field(
        default="",
        description="Feast's online store: a path or redis:// URL; default SQLite in home.",
    )
    feast_registry: str = Field(
        default="", description="Feast's SQL registry; default SQLite in home."
    )
    sweep_storage: str = Field(
        default="",
        description="Database in which several workers share a sweep; default journals in home.",
    )
    pseudonym_key: str | None = Field(
        default=None, description="Secret of the prediction log's pseudonyms."
    )
    admin_token: str | None = Field(
        default=None, description="Bearer token of the gateway's admin calls."
    )
    actor: str = Field(default="", description="Who reads and promotes; default the login name.")
    role: str = Field(default="engineer", description="Role in which data is read; see roles.")
    roles: dict[str, list[str]] = Field(
        default={"viewer": [], "engineer": ["sensitive"], "steward": ["sensitive", "pii"]},
        description="Classifications of columns that each role may see, as JSON.",
    )
    cpu_hour_price: float = Field(
        default=0.05,
        ge=0,
        allow_inf_nan=False,
        description="Price of an hour of one core, for the estimated cost of a training.",
    )
    triton_venv: Path = Field(
        default=ROOT / ".venv-triton", description="Environment with Triton's wheel."
    )

    @model_validator(mode="before")
    @classmethod
    def _running_services(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Addresses that were not given are those of the services started here."""
        home = Path(given.get("home", ROOT / ".flywheel"))
        file = home.absolute() / "services.json"
        running = json.loads(file.read_text()) if file.exists() else []
        urls = {one["name"]: one["url"] for one in running}
        for field, service, default in (
            ("gateway_url", "serving", "http://127.0.0.1:8900"),
            ("mlflow_url", "mlflow", "http://127.0.0.1:5050"),
        ):
            given.setdefault(field, urls.get(service, default))
        return given

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

    @cached_property
    def online_store_address(self) -> str:
        """The online store: an absolute path, or the URL of a Redis."""
        given = self.online_store
        if "://" in given:
            return given
        return str(Path(given).absolute() if given else self.feast / "online.db")

    @cached_property
    def feast_registry_uri(self) -> str:
        """SQLAlchemy address of Feast's registry."""
        return self.feast_registry or f"sqlite:///{self.feast}/registry.db"

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
