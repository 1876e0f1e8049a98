"""The options shared by commands that talk to a queue, and by those that put jobs into it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from rollstream.transport.redis.access import MOST_REPLICAS, RedisAccess

DEFAULT_REDIS = RedisAccess()

_URL = Annotated[
    str,
    typer.Option(
        "--redis",
        envvar="ROLLSTREAM_REDIS",
        help="Redis URL: redis://, rediss:// or unix://; for a Redis Cluster, redis+cluster://host:port,host:port; "
        "with Sentinels, redis+sentinel://host:port,host:port/name.",
    ),
]
_CA = Annotated[
    Path | None,
    typer.Option(
        "--redis-ca",
        envvar="ROLLSTREAM_REDIS_CA",
        metavar="FILE",
        help="PEM file of the CAs that may have signed Redis' certificate, for rediss://; default: this system's.",
    ),
]
_CERT = Annotated[
    Path | None,
    typer.Option(
        "--redis-cert",
        envvar="ROLLSTREAM_REDIS_CERT",
        metavar="FILE",
        help="PEM file of our certificate, where Redis asks for one.",
    ),
]
_KEY = Annotated[
    Path | None,
    typer.Option(
        "--redis-key",
        envvar="ROLLSTREAM_REDIS_KEY",
        metavar="FILE",
        help="PEM file of the key of --redis-cert, if it is not in the same file.",
    ),
]
_PASSWORD_FILE = Annotated[
    Path | None,
    typer.Option(
        "--redis-password-file",
        envvar="ROLLSTREAM_REDIS_PASSWORD_FILE",
        metavar="FILE",
        help="File with the password, which no list of processes shows; it is read for every new connection.",
    ),
]
_SENTINEL_PASSWORD_FILE = Annotated[
    Path | None,
    typer.Option(
        "--redis-sentinel-password-file",
        envvar="ROLLSTREAM_REDIS_SENTINEL_PASSWORD_FILE",
        metavar="FILE",
        help="The same with the password of the Sentinels themselves.",
    ),
]
_WAIT = Annotated[
    int,
    typer.Option(
        "--redis-wait",
        envvar="ROLLSTREAM_REDIS_WAIT",
        metavar="N",
        min=0,
        max=MOST_REPLICAS,
        help="Replicas of Redis that must have a submission before it counts.",
    ),
]
_BESIDE: dict[str, Any] = {
    "redis_ca": _CA,
    "redis_cert": _CERT,
    "redis_key": _KEY,
    "redis_password_file": _PASSWORD_FILE,
    "redis_sentinel_password_file": _SENTINEL_PASSWORD_FILE,
    "redis_wait": _WAIT,
}

T = TypeVar("T")


def reaches_redis(command: Callable[..., T]) -> Callable[..., T]:
    """For a command with a parameter `redis: RedisAccess`: give it `--redis` and the options that belong to it."""

    @wraps(command)
    def run(*, redis: str, **given: Any) -> T:
        beside = {name: given.pop(name) for name in _BESIDE}
        access = RedisAccess.of(redis, **{name.removeprefix("redis_"): value for name, value in beside.items()})
        return command(redis=access, **given)

    signature = inspect.signature(command, eval_str=True)
    parameters = [one for found in signature.parameters.values() for one in _options_of(found)]
    vars(run)["__signature__"] = signature.replace(parameters=parameters)
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _options_of(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """The parameter as typer reads it."""
    kind = inspect.Parameter.KEYWORD_ONLY
    if parameter.name != "redis":
        return [parameter.replace(kind=kind)]
    beside = [
        inspect.Parameter(name, kind, default=0 if name == "redis_wait" else None, annotation=option)
        for name, option in _BESIDE.items()
    ]
    return [parameter.replace(kind=kind, default=DEFAULT_REDIS.url, annotation=_URL), *beside]


Policy = Annotated[
    str, typer.Option("--policy", envvar="ROLLSTREAM_POLICY", help="Policy whose queue is meant, such as math-7b.")
]
Partitions = Annotated[
    int,
    typer.Option(
        envvar="ROLLSTREAM_PARTITIONS", min=1, max=1024, help="Number of partitions, the same as the workers'."
    ),
]
Timeout = Annotated[float | None, typer.Option(min=0, help="Seconds to wait for results; then exit 4.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

Adapter = Annotated[str | None, typer.Option(metavar="NAME@VERSION", help="LoRA adapter; default: the base model.")]
QueueDeadline = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Answer a job with an error once it has waited so long for a worker."),
]
RunDeadline = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Answer what is left of a job with an error once it has run so long."),
]
MinPolicyVersion = Annotated[
    int | None, typer.Option(metavar="VERSION", help="Only workers that serve this policy version or a newer one.")
]
MaxStaleness = Annotated[
    int | None,
    typer.Option(
        metavar="VERSIONS",
        help="Answer with an error what would begin with weights further behind the newest.",
    ),
]
