"""When a client is gone."""

from __future__ import annotations

from starlette.types import Receive


async def until_gone(receive: Receive) -> None:
    """Return once the client has closed the connection. Its body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
