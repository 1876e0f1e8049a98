"""Environment variables of Rollstream. A misspelt one is refused, like a misspelt flag. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

from .errors import SchemaError
from .printable import printable

PREFIX = "ROLLSTREAM_"

WORKER_SETTINGS = frozenset({
    "ADAPTER_CACHE", "ADAPTER_CACHE_BYTES", "ADAPTER_DIR", "ADMISSION", "CHECKPOINT_DIR", "CONSUMER", "DTYPE",
    "ENGINE", "ENGINE_ARGS", "ENGINE_METRICS", "ENGINE_TIMEOUT_S", "GOLDEN", "GPU_MEMORY_UTILIZATION", "GRACE_S",
    "HEARTBEAT_S", "IMAGE_CACHE_BYTES", "IMAGE_MEMORY_BYTES", "INFLIGHT_BYTES", "INFLIGHT_SEQUENCES",
    "KEEP_PARTIALS", "KV_CACHE_BYTES", "LEASE_S", "LOAD_TIMEOUT_S", "LOGPROBS_MODE", "LOG_FORMAT", "LOG_LEVEL",
    "LORA", "MAX_ADAPTER_BYTES", "MAX_DELIVERIES", "MAX_IMAGES", "MAX_IMAGE_PIXELS", "MAX_INTERRUPTIONS",
    "MAX_LORAS", "MAX_LORA_RANK",
    "MAX_MODEL_LEN", "MAX_NUM_SEQS", "METRICS_HOST", "METRICS_PORT", "MODEL", "PARTIALS_BYTES",
    "PARTIALS_POLICY_BYTES", "PARTITIONS", "POLICY", "PRINT_CONFIG", "PROBE", "REDIS", "REDIS_CA", "REDIS_CERT",
    "REDIS_KEY", "REDIS_PASSWORD_FILE", "REDIS_SENTINEL_PASSWORD_FILE", "REDIS_WAIT", "REPLICAS", "RESULT_TTL_S",
    "RETENTION_BYTES", "RETENTION_S", "ROUTED_EXPERTS", "SCORE_TOKENS_AT_ONCE", "STUB_IMAGE_TOKEN", "STUB_LONG_TAIL",
    "STUB_POISON_TOKEN", "STUB_TOKENS_PER_S", "STUB_VOCAB_SIZE", "SWAP", "TENSOR_PARALLEL_SIZE", "THINKING_MARKS",
    "TOKENIZER", "WEIGHTS", "WEIGHTS_CACHE", "WEIGHT_TRANSFER",
})  # fmt: skip
"""Settings of `rollstream-worker`; workers and the command line may share an environment."""
_OTHERS = frozenset({
    "ASSUMED_TOKENS_PER_S", "BENCH_TURN", "COMMIT", "GATEWAY_TOKEN", "REDIS_SERVER", "START_REPORT", "STATISTICS_STEPS",
    "UNTESTED_VLLM", "WEB_TOKEN", "WORKER_PID",
})  # fmt: skip
"""The exporter's speed of a worker, benchmarks, the redis-server to run, marks of a worker, a vLLM that nobody has run,
the tokens of the page and of the gateway.
"""

_SERVICE_LINK = re.compile(
    r"_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$"
)
"""Kubernetes sets these in every container for each service; a service may be called rollstream-worker."""
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


class UnknownVariableError(SchemaError):
    """Raised when the environment has a `ROLLSTREAM_` variable that nothing reads; `near` is the likely name."""

    def __init__(self, name: str, near: str | None) -> None:
        meant = f"do you mean {near}?" if near else "unset it"
        super().__init__(f"environment variable {printable(name[:100])}: there is no such setting; {meant}")
        self.name = name
        self.near = near


def check_environment(environment: Mapping[str, str], names: Collection[str] = WORKER_SETTINGS) -> None:
    """Raises `UnknownVariableError`, without a value, which may be secret. `names`: known settings without prefix."""
    known = {*names, *_OTHERS}
    for name in sorted(environment):
        upper = name.upper()
        if upper.startswith(PREFIX) and not _is_service_link(upper, environment[name]):
            setting = upper.removeprefix(PREFIX)
            if setting not in known:
                near = nearest(setting, known)
                raise UnknownVariableError(name, near and PREFIX + near)


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that was most likely meant; None if none is near.

    Not far off comes first, then what it begins with (a `redis-port` belongs to `redis`, not to `metrics-port`).
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1, cutoff=0.81)
    near += [one for one in reversed(names) if name.startswith((f"{one}_", f"{one}-"))]
    return next(iter(near or difflib.get_close_matches(name, names, 1)), None)


def is_service_address(value: str) -> bool:
    """Whether Kubernetes wrote this as the port of a service, such as `tcp://10.0.0.7:9100`."""
    return bool(_SERVICE_ADDRESS.match(value))


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.search(name) or (name.endswith("_PORT") and is_service_address(value)))
