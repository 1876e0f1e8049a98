"""From what a user wrote to a weight store, or to an error that says what to write."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from rollstream.schemas.keys import Keys
from rollstream.schemas.weights.shown_place import without_secrets

from .errors import StoreProblem, WeightStoreError
from .files import FileStore
from .folder import Folder
from .in_redis import QUOTA_BYTES, RedisCall, RedisStore
from .store import WeightStore
from .url import UrlFiles

IN_REDIS = "redis"
"""What a user writes for the policy's own Redis."""
FORMS = f"a folder, {IN_REDIS!r} for the policy's own Redis, or a URL that fsspec knows, such as s3://bucket/weights"

_OF_REDIS = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
_READ_ONLY = ("http", "https", "data", "zip", "tar", "github", "git")
_WHAT = "use the weights"


def store_of(
    place: str | Path, keys: Keys, call: RedisCall | None = None, *, quota_bytes: int | None = None
) -> WeightStore:
    """The weight store of a policy. `call` reaches its Redis, see `RedisCall`; `quota_bytes` bounds a store there.

    The library for a URL is imported here, and a folder is looked for: this may block for a second. Raises
    `WeightStoreError`.
    """
    text = str(place)
    shown = without_secrets(text)
    if not text.strip() or "\0" in text:
        raise _refusal(shown, "nothing is named", f"write {FORMS}")
    if text == IN_REDIS:
        if call is None:
            raise _refusal(shown, "there is no Redis here", f"write {FORMS}")
        return RedisStore(keys=keys, call=call, quota_bytes=QUOTA_BYTES if quota_bytes is None else quota_bytes)
    if quota_bytes is not None:
        raise _refusal(shown, "a quota is for the store in Redis", "leave it out")
    scheme, found, rest = text.partition("://")
    if not found:
        return _folder(Path(text), shown, keys.policy)
    if scheme in ("file", "local"):
        return _folder(Path(unquote(rest)), shown, keys.policy)
    return _url(scheme, text, shown, keys.policy)


def _folder(path: Path, shown: str, policy: str) -> WeightStore:
    try:
        is_there = path.is_dir()
    except OSError as error:
        raise _refusal(shown, error.strerror or "no path", f"write {FORMS}") from None
    if not is_there:
        meant = f"; do you mean {IN_REDIS!r}?" if shown.lower() == IN_REDIS else ""
        problem = f"there is no such folder{meant}"
        raise _refusal(shown, problem, "make it on a file system that trainer and workers share, or mount it")
    return FileStore(where=shown, files=Folder(path.resolve(), policy=policy))


def _url(scheme: str, url: str, shown: str, policy: str) -> WeightStore:
    if "@" in scheme:
        raise _refusal(shown, "it is no URL: a login comes after ://", f"write {FORMS}")
    if scheme in _OF_REDIS:
        raise _refusal(shown, "another Redis cannot be the store", f"write {IN_REDIS!r} for the policy's own")
    if scheme in _READ_ONLY:
        raise _refusal(shown, "nothing can be written there", f"write {FORMS}")
    try:
        import fsspec  # noqa: PLC0415 - only some stores need it
    except ImportError:
        advice = "pip install 'rollstream[weights]'"
        raise _refusal(shown, "a URL needs fsspec, which is not installed here", advice) from None
    try:
        file_system, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise _refusal(shown, str(error)[:200], f"install it here, or write {FORMS}") from None
    except Exception as error:  # noqa: BLE001 - what a file system raises for its options is its own matter
        told = str(error) if isinstance(error, ValueError) and "Protocol not known" in str(error) else ""
        problem = told[:200] or f"{scheme}: {type(error).__name__}"
        raise _refusal(shown, problem, f"write {FORMS}") from None
    if not str(root).strip("/"):
        raise _refusal(shown, "it names no place", f"add a path: {scheme}://bucket/weights")
    return FileStore(where=shown, files=UrlFiles(file_system=file_system, root=str(root), policy=policy))


def _refusal(shown: str, problem: str, advice: str) -> WeightStoreError:
    return WeightStoreError(_WHAT, shown, problem, StoreProblem.PLACE, advice)
