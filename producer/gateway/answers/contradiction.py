"""When what is in Redis is not what was sent already."""

from __future__ import annotations

from ..errors import ApiError


def contradiction(batch_id: str, what: str) -> ApiError:
    """The stream cannot go on: what was sent stands, and its end must not be made up."""
    why = f"{what}: it was begun again, by a worker with other weights or after Redis lost what was kept"
    return ApiError(500, f"the stream ends here, because {why}", None, "stream_broken", batch_id)
