"""The options shared by all commands that talk to a queue."""

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
