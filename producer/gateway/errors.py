"""A request that is answered with an error, in OpenAI's shape."""

from __future__ import annotations

from typing import Any, Literal

from ..errors import ProducerError

ErrorType = Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]
_BY_STATUS: dict[int, ErrorType] = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(ProducerError):
    """Raised when a request cannot be answered as it was asked.

    `param` is what is at fault, `code` a word for programs, `batch_id` the batch that was queued; empty if none was.
    """

    def __init__(
        self,
        status: int,
        problem: str,
        param: str | None = None,
        code: str | None = None,
        batch_id: str = "",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(problem)
        self.status = status
        self.problem = problem
        self.param = param
        self.code = code
        self.batch_id = batch_id
        self.retry_after_s = retry_after_s

    @property
    def kind(self) -> ErrorType:
        """The `type` of OpenAI's errors."""
        return _BY_STATUS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """What the client gets."""
        told: dict[str, Any] = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": told | ({"batch_id": self.batch_id} if self.batch_id else {})}

    def headers(self) -> dict[str, str]:
        """What goes beside it."""
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}


def bad(param: str, problem: str, code: str | None = None) -> ApiError:
    """A parameter that cannot be used: status 400."""
    return ApiError(400, f"{param}: {problem}", param, code)
