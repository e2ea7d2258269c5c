"""The error every HTTP answer other than success is made from."""

from __future__ import annotations

from typing import Any


class ServingError(Exception):
    """An error the client is told about.

    Args:
        status: HTTP status.
        message: A sentence that says what is wrong and what to do.
        field: The request field at fault, if there is one.
        retry_after: Seconds after which another try makes sense.
    """

    def __init__(
        self, status: int, message: str, field: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON answer."""
        if self.status == 422:
            return {"error": self.message, "field": self.field}
        return {"error": self.message}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer besides its type and length."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
