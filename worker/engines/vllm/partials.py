"""What an engine over vLLM says of requests while they run. Imports no vLLM."""

from __future__ import annotations

from ...requests import KvUse, Partial


class Partials:
    """The part of an engine over vLLM that looks at running requests."""

    def partials(self, _request_id: str) -> list[Partial]:
        """See `Engine.partials`: none yet."""
        return []

    async def release(self) -> None:
        """See `Engine.release`: nothing yet."""

    async def memory_use(self) -> KvUse | None:
        """See `Engine.memory_use`: nothing yet."""
        return None
