"""Loading and unloading Triton models, over gRPC.

Control never goes over HTTP: there a load blocks one of Triton's event loops, and every request
on it, for the whole load. Inference never goes over gRPC: Triton 2.51 crashes on a client's
deadline.
"""

from __future__ import annotations

from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

_LOAD_SECONDS = 120.0
_INDEX_SECONDS = 5.0
# The generated protobuf module has no types.
_messages: Any = service_pb2


class TritonControlError(RuntimeError):
    """Triton refused a control call or could not be reached; the message is its reason.

    Attributes:
        unavailable: True if Triton could not be reached, false if it refused.
    """

    def __init__(self, message: str, *, unavailable: bool) -> None:
        super().__init__(message)
        self.unavailable = unavailable


class TritonControl:
    """Control connection to one Triton server.

    Args:
        address: gRPC address, ``host:port``.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def load(self, name: str) -> None:
        """Load a model and wait until it is warm; the running one serves meanwhile.

        Raises:
            TritonControlError: If the model cannot be loaded.
        """
        request = _messages.RepositoryModelLoadRequest(model_name=name)
        await self._call(f"load '{name}'", self._stub.RepositoryModelLoad, request)

    async def unload(self, name: str) -> None:
        """Unload a model once its requests have ended.

        Raises:
            TritonControlError: If Triton cannot be reached.
        """
        request = _messages.RepositoryModelUnloadRequest(model_name=name)
        await self._call(f"unload '{name}'", self._stub.RepositoryModelUnload, request)

    async def index(self) -> dict[str, str]:
        """State (``READY``, ``UNAVAILABLE``, ...) by name, of models that were ever loaded."""
        request = _messages.RepositoryIndexRequest()
        answer = await self._call(
            "list its models", self._stub.RepositoryIndex, request, _INDEX_SECONDS
        )
        return {model.name: model.state for model in answer.models}

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def _call(
        self, what: str, method: Any, request: Any, seconds: float = _LOAD_SECONDS
    ) -> Any:
        try:
            return await method(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            lost = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            message = f"Triton could not {what}: {error.details()}"
            raise TritonControlError(message, unavailable=lost) from error
