"""Deploys, rolls back and restores: the only code that changes which version answers.

The order makes it safe: verify, copy, load, warm, probe, write the routing document, flip.
The flip is one dictionary assignment, so no request can fail. The old version stays loaded as
``previous``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from flywheel_serving.bundle import Bundle, BundleError, open_bundle
from flywheel_serving.control import TritonControlError
from flywheel_serving.errors import ServingError
from flywheel_serving.inference import TritonInferenceError, TritonUnavailableError
from flywheel_serving.predictor import Predictor, Services
from flywheel_serving.repository import ModelRepository
from flywheel_serving.routing import (
    Change,
    Deployment,
    RoutingError,
    RoutingFile,
    promote,
    rollback_target,
)
from flywheel_serving.supervisor import TritonSupervisor

log = logging.getLogger(__name__)

_DRAIN_SECONDS = 30.0
_CHECK_SECONDS = 5.0


class DeployResult(msgspec.Struct, frozen=True):
    """What a deployment did.

    Attributes:
        model: Name of the model.
        version: The champion now.
        previous: The version a rollback would go to.
        changed: False if that very bundle was the champion already.
        load_seconds: Time Triton took to load and warm it.
        probe_max_abs_diff: Largest difference between the probe's expected and actual output.
    """

    model: str
    version: str
    previous: str | None
    changed: bool
    load_seconds: float = 0.0
    probe_max_abs_diff: float = 0.0


class Deployer:
    """Holds the routes and the predictors of all loaded versions.

    Args:
        work: The gateway's work directory; holds ``bundles/`` and ``routing.json``.
        repository: The model repository.
        services: Shared by all predictors.
    """

    def __init__(self, work: Path, repository: ModelRepository, services: Services) -> None:
        self._bundles = work / "bundles"
        self._bundles.mkdir(parents=True, exist_ok=True)
        self._repository = repository
        self._services = services
        self._file = RoutingFile(work / "routing.json")
        self._loaded: dict[str, Predictor] = {}
        self._lock = asyncio.Lock()
        self._supervisor: TritonSupervisor | None = None
        self.document = self._file.load()
        self.champions: dict[str, Predictor] = {}
        """The predictor that answers, by model: the gateway reads it on each request."""
        self.broken: dict[str, str] = {}
        """Why a model of the routing document has no predictor, by model."""

    def attach(self, supervisor: TritonSupervisor) -> None:
        """Use this supervisor's control connection."""
        self._supervisor = supervisor

    def restore(self) -> None:
        """Prepare everything the routing document names; the supervisor then loads it.

        A version whose stored bundle is damaged is left out, so that the other models serve.
        """
        for name, deployment in self.document.deployments():
            try:
                bundle = open_bundle(self._bundles / deployment.bundle)
                predictor = Predictor(bundle, self._services)
            except BundleError as error:
                log.error("Version %s of %s cannot serve: %s", deployment.version, name, error)
                if deployment == self.document.models[name].champion:
                    self.broken[name] = str(error)
                continue
            self._repository.add(bundle)
            self._loaded[predictor.triton_name] = predictor
        for name in set(self.document.models) - set(self.broken):
            version = self.document.models[name].champion.version
            self.champions[name] = self._loaded[_triton_name(name, version)]
        for name in set(self._repository.names()) - set(self._loaded):
            self._repository.remove(name)
        kept = {deployment.bundle for _, deployment in self.document.deployments()}
        for path in self._bundles.iterdir():
            if path.name not in kept:
                shutil.rmtree(path)

    def wanted(self) -> list[str]:
        """Triton names of the versions that must be loaded."""
        names = [_triton_name(name, item.version) for name, item in self.document.deployments()]
        return [name for name in names if name in self._loaded]

    async def check(self, name: str) -> None:
        """Run one probe row through a loaded version; see :class:`supervisor.Models`."""
        predictor = self._loaded.get(name)
        if predictor is not None:
            await predictor.probe(rows=1, limit=_CHECK_SECONDS)

    async def deploy(self, model: str, source: Path, actor: str, reason: str) -> DeployResult:
        """Make a bundle the champion of its model.

        Args:
            model: Name of the model, which the bundle must carry.
            source: Directory of the bundle.
            actor: Who asked for it.
            reason: Why.

        Raises:
            ServingError: 422 if the bundle is refused, 409 if its version is deployed with another
                content, 503 if Triton is down. The old champion serves on in each case.
        """
        async with self._lock:
            try:
                bundle = await asyncio.to_thread(open_bundle, source)
            except (BundleError, OSError) as error:
                raise ServingError(422, str(error), "bundle") from error
            if bundle.manifest.model != model:
                message = f"The bundle is of model '{bundle.manifest.model}', not '{model}'."
                raise ServingError(422, message, "bundle")
            route = self.document.models.get(model)
            same = route is not None and self._same(route.champion, bundle)
            if route is not None and same and model in self.champions:
                previous = None if route.previous is None else route.previous.version
                return DeployResult(model, bundle.manifest.version, previous, False)
            if route is not None:
                self._same(route.previous, bundle)
            name = bundle.manifest.triton_name
            if name not in self._loaded:
                bundle = await asyncio.to_thread(self._keep, bundle)
            try:
                predictor, seconds, gap = await self._load(bundle)
            except ServingError:
                if name not in self.wanted():
                    await self._forget(name, bundle)
                raise
            deployment = Deployment(
                version=bundle.manifest.version,
                digest=bundle.digest,
                bundle=predictor.bundle.directory.name,
            )
            change = self._change("deploy", model, deployment, actor, reason)
            await self._flip(model, predictor, deployment, change)
            return self._result(model, round(seconds, 3), gap)

    async def roll_back(self, model: str, actor: str, reason: str) -> DeployResult:
        """Make the previous version the champion again; it is loaded, so this is one flip.

        Raises:
            ServingError: 409 if there is no previous version.
        """
        async with self._lock:
            try:
                target = rollback_target(self.document, model)
            except RoutingError as error:
                raise ServingError(409, str(error)) from error
            predictor = self._loaded.get(_triton_name(model, target.version))
            if predictor is None:
                message = f"The stored bundle of version {target.version} is damaged; deploy it."
                raise ServingError(409, message)
            change = self._change("rollback", model, target, actor, reason)
            await self._flip(model, predictor, target, change)
            return self._result(model)

    def _result(self, model: str, seconds: float = 0.0, gap: float = 0.0) -> DeployResult:
        """What the last flip led to."""
        route = self.document.models[model]
        previous = None if route.previous is None else route.previous.version
        return DeployResult(model, route.champion.version, previous, True, seconds, gap)

    def _same(self, deployment: Deployment | None, bundle: Bundle) -> bool:
        """Whether a deployed version is this very bundle.

        Raises:
            ServingError: 409 if it is the same version with another content.
        """
        if deployment is None or deployment.version != bundle.manifest.version:
            return False
        if deployment.digest != bundle.digest:
            raise ServingError(
                409,
                f"Version {deployment.version} of '{bundle.manifest.model}' is deployed with "
                "another content; register the changed model as a new version.",
            )
        return True

    def _keep(self, bundle: Bundle) -> Bundle:
        """Copy a bundle into the gateway's own store and verify the copy."""
        place = self._bundles / f"{bundle.manifest.triton_name}-{bundle.digest[:16]}"
        aside = self._bundles / f".{place.name}.{os.getpid()}"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(bundle.directory, aside, symlinks=True)
            copy = open_bundle(aside)
            if copy.digest != bundle.digest:
                raise BundleError(
                    f"{bundle.directory} changed while it was copied; deploy it again."
                )
            shutil.rmtree(place, ignore_errors=True)
            aside.replace(place)
            return open_bundle(place)
        except (BundleError, OSError, shutil.Error) as error:
            raise ServingError(422, f"The bundle cannot be stored: {error}", "bundle") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    async def _load(self, bundle: Bundle) -> tuple[Predictor, float, float]:
        """Load and probe a version.

        Raises:
            ServingError: 422 if it does not run or its probe differs, 503 if Triton is away.
        """
        assert self._supervisor is not None  # noqa: S101  # attached before the first request
        name = bundle.manifest.triton_name
        try:
            predictor = self._loaded.get(name) or Predictor(bundle, self._services)
            control = self._supervisor.control
            await asyncio.to_thread(self._repository.add, bundle)
            start = time.perf_counter()
            await control.load(name)
            seconds = time.perf_counter() - start
            gap = await predictor.probe()
        except BundleError as error:
            raise ServingError(422, str(error), "bundle") from error
        except TritonUnavailableError as error:
            raise ServingError(503, f"{error} Deploy again soon.", retry_after=2) from error
        except TritonControlError as error:
            if error.unavailable:
                raise ServingError(503, f"{error}; deploy again soon.", retry_after=2) from error
            raise ServingError(422, f"The model does not load: {error}", "bundle") from error
        except TritonInferenceError as error:
            raise ServingError(422, f"The model does not run: {error}", "bundle") from error
        tolerance = bundle.manifest.tolerance
        if math.isnan(gap) or gap > tolerance:
            raise ServingError(
                422,
                f"The probe of version {bundle.manifest.version} differs from what training "
                f"computed by {gap:.3g} (tolerance {tolerance:.3g}); export the model again and "
                "compare it with ONNX Runtime before sealing.",
                "bundle",
            )
        return predictor, seconds, gap

    def _change(
        self, action: str, model: str, target: Deployment, actor: str, reason: str
    ) -> Change:
        route = self.document.models.get(model)
        return Change(
            at=datetime.now(UTC).isoformat(),
            action="rollback" if action == "rollback" else "deploy",
            version=target.version,
            previous=None if route is None else route.champion.version,
            actor=actor,
            reason=reason,
        )

    async def _flip(
        self, model: str, predictor: Predictor, target: Deployment, change: Change
    ) -> None:
        document = promote(self.document, model, target, change)
        await asyncio.to_thread(self._file.save, document)
        self.document = document
        self._loaded[predictor.triton_name] = predictor
        self.champions[model] = predictor
        self.broken.pop(model, None)
        log.info("%s is now the champion of %s: %s", target.version, model, change.reason)
        await self._retire()

    async def _retire(self) -> None:
        """Unload versions no route names any more, once their last requests have ended."""
        for name in set(self._loaded) - set(self.wanted()):
            predictor = self._loaded.pop(name)
            deadline = time.monotonic() + _DRAIN_SECONDS
            while predictor.inflight and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            await self._forget(name, predictor.bundle)

    async def _forget(self, name: str, bundle: Bundle) -> None:
        """Remove a version from Triton, from the repository and from the bundle store."""
        assert self._supervisor is not None  # noqa: S101  # attached before the first request
        try:
            await self._supervisor.control.unload(name)
        except TritonControlError as error:
            # Harmless: a Triton that is away has nothing loaded, and a restart loads only routes.
            log.warning("%s", error)
        await asyncio.to_thread(self._repository.remove, name)
        await asyncio.to_thread(shutil.rmtree, bundle.directory, ignore_errors=True)


def _triton_name(model: str, version: str) -> str:
    return f"{model}__v{version}"
