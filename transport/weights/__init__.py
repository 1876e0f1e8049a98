"""The weight store, for trainers and workers: chunks and manifests in a folder, in Redis or at any fsspec URL.

It reads and writes what `schemas.wire.weights` describes. It knows no tensor and no policy version that is served.
"""

from rollstream.schemas.weights.shown_place import without_secrets

from .errors import StoreProblem, WeightStoreError
from .in_redis import PlainCall, RedisCall
from .read import read_chain, read_chunk, read_manifest
from .store import Stored, WeightStore, is_chunk
from .store_of import store_of

__all__ = [
    "PlainCall",
    "RedisCall",
    "StoreProblem",
    "Stored",
    "WeightStore",
    "WeightStoreError",
    "is_chunk",
    "read_chain",
    "read_chunk",
    "read_manifest",
    "store_of",
    "without_secrets",
]
