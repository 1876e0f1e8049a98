"""The files of the page, read once when the server starts: no path of a request ever reaches the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).with_name("assets")
PAGE, LOGIN = "index.html", "login.html"
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One file."""

    data: bytes
    kind: str
    etag: str

    def response(self, request: Request) -> Response:
        """The file, or that the browser has it already: it asks each time, so that an upgrade is seen at once."""
        headers = {"etag": self.etag, "cache-control": "no-cache"}
        if self.etag in {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}:
            return Response(status_code=304, headers=headers)
        return Response(self.data, media_type=self.kind, headers=headers)


def read_assets(folder: Path = FOLDER) -> Mapping[str, Asset]:
    """All files of the page by their paths in the folder, such as `kit/dom.js`; files of other kinds are left out."""
    return {
        path.relative_to(folder).as_posix(): _asset(path.read_bytes(), _KINDS[path.suffix])
        for path in sorted(folder.rglob("*"))
        if path.suffix in _KINDS and path.is_file()
    }


def _asset(data: bytes, kind: str) -> Asset:
    return Asset(data=data, kind=kind, etag=f'"{hashlib.sha256(data).hexdigest()[:32]}"')
