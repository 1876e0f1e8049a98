"""When what is in Redis is not what was sent already."""

from __future__ import annotations

from ..errors import ApiError


def contradiction(batch_id: str, what: str) -> ApiError:
    """The stream cannot go on: what was sent stands, and its end must not be made up."""
    why = f"{what}: it was begun again, by a worker with other weights or after Redis lost what was kept"
    return _broken(batch_id, why)


def changed_text(batch_id: str) -> ApiError:
    """The tokens are what was sent of them, and yet their text is another one with those that came behind them."""
    why = "the text of its tokens changed with later ones: the completion is sound, so ask for it without stream"
    return _broken(batch_id, why)


def _broken(batch_id: str, why: str) -> ApiError:
    return ApiError(500, f"the stream ends here, because {why}", None, "stream_broken", batch_id)
