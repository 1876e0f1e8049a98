"""The options shared by commands that talk to a queue, and by those that put jobs into it."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_REDIS = "redis://127.0.0.1:6379/0"

RedisUrl = Annotated[
    str,
    typer.Option(
        "--redis",
        envvar="ROLLSTREAM_REDIS",
        help="Redis URL: redis://, rediss:// or unix://; for a Redis Cluster, redis+cluster://host:port,host:port.",
    ),
]
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
