"""What an operator may do from the page. The gate has checked before that it may be asked."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rollstream.schemas import Keys, RollstreamError
from rollstream.schemas.printable import printable

from ...batches.cancel import cancel_batch
from ...batches.ledger import read_description
from ...operations.requests import drain, pause, resume
from ...redis_io.connection import Connection
from ...replay.dead_letters import find, requeue
from .bodies import json_object
from .reads import answered

_PATIENCE_S = 60.0

log = logging.getLogger("rollstream")

Act = Callable[[Request], Awaitable[dict[str, Any]]]


class Actions:
    """Each action may be repeated. Those that end work ask for the name of what they end, as `confirm`."""

    def __init__(self, *, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            self._route("/api/pause", "pause", self._pause),
            self._route("/api/resume", "resume", self._resume),
            self._route("/api/batches/{name}/cancel", "cancel", self._cancel),
            self._route("/api/letters/{name:path}/requeue", "requeue", self._requeue),
            self._route("/api/workers/{name:path}/drain", "drain", self._drain),
        ]

    def _route(self, path: str, action: str, act: Act) -> Route:
        async def endpoint(request: Request) -> Response:
            name = request.path_params.get("name", "")
            who = request.client.host if request.client else "?"
            what = printable(f"{action} {name}".strip()[:300])
            told = await json_object(request)
            if name and told.get("confirm") != name:
                raise HTTPException(400, f'{action} needs {{"confirm": ...}} with the name in the path')
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    done = await act(request)
            except (RollstreamError, TimeoutError) as error:
                log.warning("page: %s asked to %s (policy %s): %s", who, what, self._keys.policy, error or "no answer")
                raise
            log.warning("page: %s asked to %s (policy %s): %s", who, what, self._keys.policy, json.dumps(done))
            return answered(done)

        return Route(path, endpoint, methods=["POST"])

    async def _pause(self, _request: Request) -> dict[str, Any]:
        return {"changed": await pause(self._connection, self._keys)}

    async def _resume(self, _request: Request) -> dict[str, Any]:
        return {"changed": await resume(self._connection, self._keys)}

    async def _cancel(self, request: Request) -> dict[str, Any]:
        batch = await read_description(self._connection, self._keys, request.path_params["name"])
        return {"groups": batch.num_groups, "cancelled": await cancel_batch(self._connection, self._keys, batch)}

    async def _requeue(self, request: Request) -> dict[str, Any]:
        letter = await find(self._connection, self._keys, request.path_params["name"])
        return {"batch_id": await requeue(self._connection, self._keys, letter)}

    async def _drain(self, request: Request) -> dict[str, Any]:
        return {"drains": await drain(self._connection, self._keys, [request.path_params["name"]])}
