"""Everything but predict over HTTP: deployments, rollback, status, health and metrics."""

from __future__ import annotations

import hmac
import ipaddress
import logging
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flywheel_serving.errors import ServingError
from flywheel_serving.gateway import Gateway

log = logging.getLogger(__name__)


class DeployBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a deployment."""

    bundle: str
    actor: str = "unknown"
    reason: str = ""


class RollbackBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a rollback; it may be empty."""

    actor: str = "unknown"
    reason: str = ""


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = msgspec.json.encode(content)
    return Response(body, status, headers=headers, media_type="application/json")


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)  # noqa: S101  # registered for this type
    return _json(error.body, error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for this type
    message = {
        404: f"There is nothing at {request.url.path}; see GET /v1/models.",
        405: f"{request.url.path} does not take {request.method}.",
    }.get(error.status_code, error.detail)
    return _json({"error": message}, error.status_code, dict(error.headers or {}))


async def _fault(_: Request, error: Exception) -> Response:
    log.error("An admin call failed", exc_info=error)
    return _json({"error": "The gateway made an error; its log holds the details."}, 500)


class Admin:
    """Builds the Starlette application.

    Args:
        gateway: What it acts on.
        token: Bearer token of admin calls; None allows them from this host only.
    """

    def __init__(self, gateway: Gateway, token: str | None) -> None:
        self._gateway = gateway
        self._token = token

    def application(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/v1/models", self.models, methods=["GET"]),
                Route("/v1/models/{name}", self.deploy, methods=["PUT"]),
                Route("/v1/models/{name}/rollback", self.roll_back, methods=["POST"]),
                Route("/health/live", self.live, methods=["GET"]),
                Route("/health/ready", self.ready, methods=["GET"]),
                Route("/metrics", self.metrics, methods=["GET"]),
            ],
            exception_handlers={
                ServingError: _refuse,
                HTTPException: _http_error,
                Exception: _fault,
            },
        )

    def _authorize(self, request: Request) -> None:
        if self._token is not None:
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
                raise ServingError(401, "Send 'Authorization: Bearer' with FLYWHEEL_ADMIN_TOKEN.")
            return
        host = request.client.host if request.client is not None else ""
        try:
            local = ipaddress.ip_address(host).is_loopback
        except ValueError:
            local = False
        if not local:
            raise ServingError(
                403,
                "Admin calls from another host need a token: start the gateway with "
                "FLYWHEEL_ADMIN_TOKEN set and send it as 'Authorization: Bearer'.",
            )

    async def deploy(self, request: Request) -> Response:
        """``PUT /v1/models/{name}``: make a bundle the champion."""
        self._authorize(request)
        try:
            body = msgspec.json.decode(await request.body(), type=DeployBody)
        except msgspec.DecodeError as error:
            message = f'Send {{"bundle": "/path", "actor": "...", "reason": "..."}}: {error}.'
            raise ServingError(422, message, "bundle") from error
        name = request.path_params["name"]
        result = await self._gateway.deployer.deploy(
            name, Path(body.bundle), body.actor, body.reason
        )
        return _json(result)

    async def roll_back(self, request: Request) -> Response:
        """``POST /v1/models/{name}/rollback``: make the previous version the champion."""
        self._authorize(request)
        try:
            body = msgspec.json.decode(await request.body() or b"{}", type=RollbackBody)
        except msgspec.DecodeError as error:
            message = f'Send {{"actor": "...", "reason": "..."}} or nothing: {error}.'
            raise ServingError(422, message) from error
        name = request.path_params["name"]
        return _json(await self._gateway.deployer.roll_back(name, body.actor, body.reason))

    async def models(self, _: Request) -> Response:
        """``GET /v1/models``: what is deployed."""
        deployer = self._gateway.deployer
        listed = []
        for name, route in sorted(deployer.document.models.items()):
            predictor = deployer.champions.get(name)
            listed.append(
                {
                    "name": name,
                    "version": route.champion.version,
                    "previous": None if route.previous is None else route.previous.version,
                    "since": route.since,
                    "digest": route.champion.digest,
                    "state": "up"
                    if self._gateway.supervisor.up
                    else self._gateway.supervisor.state,
                    "request": []
                    if predictor is None
                    else predictor.bundle.manifest.request.fields,
                    "history": route.history,
                }
            )
        return _json({"models": listed})

    async def live(self, _: Request) -> Response:
        """``GET /health/live``: the process answers."""
        return _json({"status": "live"})

    async def ready(self, _: Request) -> Response:
        """``GET /health/ready``: every routed model answers its probe."""
        reason = await self._gateway.not_ready()
        if reason is not None:
            return _json({"status": "not ready", "error": reason}, 503, {"retry-after": "1"})
        return _json({"status": "ready"})

    async def metrics(self, _: Request) -> Response:
        """``GET /metrics``: Prometheus text."""
        return Response(
            self._gateway.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )
