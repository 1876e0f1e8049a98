"""The page and its files. It is the same page at each of its addresses, and finds out itself what to show."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .assets import PAGE, Asset

ADDRESSES = ("/", "/batches/{batch_id}", "/letters/{partition}/{letter_id}")


class Pages:
    """Answers with files that never change while the server runs."""

    def __init__(self, assets: Mapping[str, Asset]) -> None:
        self._assets = assets

    def routes(self) -> list[Route]:
        """Where they are."""
        pages = [Route(address, self._page, methods=["GET"]) for address in ADDRESSES]
        return [*pages, Route("/assets/{name:path}", self._asset, methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        return self._assets[PAGE].response(request)

    async def _asset(self, request: Request) -> Response:
        found = self._assets.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return found.response(request)
