"""The model registry: MLflow, with one run per materialization and aliases that name the champion.

A model version's artifact is its bundle: an MLflow model directory with our manifest in it. It is
uploaded first and registered last, so a killed run leaves no version without content.
"""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"

# By this tag MLflow's UI shows a run under another one.
PARENT = "mlflow.parentRunId"

# MLflow truncates longer parameters without saying so.
LONGEST_PARAMETER = 6000


@dataclass(frozen=True)
class Version:
    """A registered model version.

    Attributes:
        model: Registry name.
        number: Version number, as text.
        run_id: MLflow run that made it.
        source: Where its bundle is.
        tags: Its tags.
    """

    model: str
    number: str
    run_id: str
    source: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """An open MLflow run."""

    client: "MlflowClient"
    run_id: str
    experiment_id: str

    def log(
        self,
        parameters: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        curves: Mapping[str, Sequence[float]] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log everything in one batch; curves become stepwise metrics.

        Raises:
            ValueError: A parameter is too long for MLflow to keep whole.
        """
        from mlflow.entities import Metric, Param, RunTag

        texts = {name: str(value) for name, value in (parameters or {}).items()}
        if long := [name for name, text in texts.items() if len(text) > LONGEST_PARAMETER]:
            raise ValueError(f"parameters {long} are longer than MLflow's {LONGEST_PARAMETER}")
        points = [Metric(name, value, 0, 0) for name, value in (metrics or {}).items()]
        points += [
            Metric(name, value, 0, step)
            for name, values in (curves or {}).items()
            for step, value in enumerate(values, start=1)
        ]
        self.client.log_batch(
            self.run_id,
            metrics=points,
            params=[Param(name, text) for name, text in texts.items()],
            tags=[RunTag(name, text) for name, text in (tags or {}).items()],
        )

    def log_directory(self, directory: Path, name: str) -> str:
        """Upload a directory as an artifact of the run; returns its address."""
        self.client.log_artifacts(self.run_id, str(directory), name)
        return f"runs:/{self.run_id}/{name}"


class Registry(dg.ConfigurableResource):
    """MLflow tracking and registry.

    Attributes:
        tracking_uri: MLflow server or database.
        artifact_root: Where runs of new experiments keep their artifacts.
        ui_url: MLflow's pages.
        bundle_cache: Folder for bundles that were fetched.
        cpu_hour_price: What an hour of one core costs, for the estimate in a version's story.
    """

    tracking_uri: str
    artifact_root: str
    ui_url: str
    bundle_cache: str
    cpu_hour_price: float = 0.05

    @property
    def client(self) -> "MlflowClient":
        """The MLflow client (one per process and address)."""
        return _client(self.tracking_uri)

    @contextmanager
    def run(
        self, experiment: str, name: str, tags: Mapping[str, str], parent: Run | None = None
    ) -> Iterator[Run]:
        """One MLflow run for one materialization; a retry of it continues the same run.

        Args:
            experiment: Experiment name, made if it is new.
            name: Run name.
            tags: Must identify the materialization: they are how a retry finds its run.
            parent: The run that this one is part of; then they identify it within that one.
        """
        client = self.client
        if parent is not None:
            tags = {**tags, PARENT: parent.run_id}
        found = client.get_experiment_by_name(experiment)
        experiment_id = (
            found.experiment_id
            if found
            else client.create_experiment(experiment, f"{self.artifact_root}/{experiment}")
        )
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        earlier = client.search_runs([experiment_id], wanted, max_results=1)
        run = earlier[0] if earlier else client.create_run(
            experiment_id, run_name=name, tags={**tags, "git_commit": git_commit()}
        )  # fmt: skip
        opened = Run(client, run.info.run_id, experiment_id)
        try:
            yield opened
        except BaseException:
            client.set_terminated(opened.run_id, "FAILED")
            raise
        client.set_terminated(opened.run_id, "FINISHED")

    def run_url(self, run: Run) -> str:
        """The run's page in the MLflow UI."""
        return f"{self.ui_url}/#/experiments/{run.experiment_id}/runs/{run.run_id}"

    def run_of(self, version: Version) -> Run:
        """The run that made a version, to add to it."""
        experiment = self.client.get_run(version.run_id).info.experiment_id
        return Run(self.client, version.run_id, experiment)

    def describe(self, version: Version, text: str) -> None:
        """Set the description (Markdown) that MLflow's page of a version shows."""
        self.client.update_model_version(version.model, version.number, description=text)

    def versions(self, model: str) -> list[Version]:
        """All versions, the newest first."""
        found = self.client.search_model_versions(f"name = '{model}'")
        return sorted((_version(v) for v in found), key=lambda v: int(v.number), reverse=True)

    def find(self, model: str, fingerprint: str) -> Version | None:
        """The version made from exactly these inputs, if there is one."""
        for version in self.versions(model):
            if version.tags.get("fingerprint") == fingerprint:
                return version
        return None

    def next_number(self, model: str) -> str:
        """The number that the next version will get."""
        numbers = [int(v.number) for v in self.versions(model)]
        return str(max(numbers, default=0) + 1)

    def register(
        self, model: str, number: str, run: Run, source: str, tags: Mapping[str, str]
    ) -> Version:
        """Register an uploaded bundle as version `number`.

        Raises:
            RuntimeError: Another process took that number; run the asset again.
        """
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = self.client.create_model_version(model, source, run.run_id, tags=dict(tags))
        if str(made.version) != number:
            self.client.delete_model_version(model, str(made.version))
            raise RuntimeError(
                f"{model}: version {number} was taken by another run meanwhile; run this one again"
            )
        return _version(made)

    def version(self, model: str, number: str) -> Version:
        """A version by its number.

        Raises:
            LookupError: There is none; the message lists those there are.
        """
        versions = {v.number: v for v in self.versions(model)}
        if number not in versions:
            there = ", ".join(sorted(versions, key=int)) or "none"
            raise LookupError(f"{model} has no version {number}: there are {there}")
        return versions[number]

    def alias(self, model: str, alias: str) -> Version | None:
        """The version with an alias, if there is one."""
        from mlflow.exceptions import MlflowException

        try:
            return _version(self.client.get_model_version_by_alias(model, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def set_alias(self, version: Version, alias: str) -> None:
        """Give a version an alias, whoever had it. What `champion` means is `resources.ledger`."""
        self.client.set_registered_model_alias(version.model, alias, version.number)

    def drop_alias(self, model: str, alias: str) -> None:
        """Take an alias away."""
        self.client.delete_registered_model_alias(model, alias)

    def bundle(self, version: Version) -> Path:
        """Directory of a version's bundle in the local cache, fetched on first use.

        It is fetched aside and renamed into place: a killed fetch leaves nothing half.
        """
        import mlflow.artifacts

        place = Path(self.bundle_cache) / version.model / version.run_id
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place.parent) as aside:
                fetched = mlflow.artifacts.download_artifacts(
                    artifact_uri=version.source, dst_path=aside, tracking_uri=self.tracking_uri
                )
                try:
                    Path(fetched).rename(place)
                except OSError:
                    if not place.exists():  # else another process was quicker: as good as ours
                        raise
        return place


@lru_cache(maxsize=4)
def _client(tracking_uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri, registry_uri=tracking_uri)


def _version(found: Any) -> Version:
    # A SQL store answers with int versions, a server with text.
    return Version(
        found.name, str(found.version), found.run_id or "", found.source, dict(found.tags or {})
    )


@lru_cache(maxsize=1)
def git_commit() -> str:
    """The commit of this checkout, with `-dirty` if files differ; `unknown` outside of git."""
    root = Path(__file__).parent
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() if described.returncode == 0 else "unknown"
