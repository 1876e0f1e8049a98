"""`rollstream gateway`: OpenAI's protocol in front of the queue."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rollstream.schemas.times import (
    LONGEST_SESSION_RETENTION_S,
    SESSION_RETENTION_S,
    SHORTEST_SESSION_RETENTION_S,
)
from rollstream.transport.redis.access import RedisAccess

from ...errors import PromptFileError, RedisUnavailableError
from ...http.errors import ServerSetupError
from ...http.token_file import read_token
from ..options import DEFAULT_REDIS, Partitions, Policy, reaches_redis
from ..output import exit_codes
from .listening import Host, Port, cannot_start, port_number

VARIABLE = "ROLLSTREAM_GATEWAY_TOKEN"
EPILOG = (
    "Example: rollstream gateway --policy math-7b --tokenizer /models/qwen2.5-7b; then, with the openai package: "
    "OpenAI(base_url='http://127.0.0.1:8000/v1', api_key='any').chat.completions.create(model='math-7b', "
    "messages=[{'role': 'user', 'content': 'Two and two?'}]). A header X-Rollstream-Session keeps the turns of a "
    "conversation together, an Idempotency-Key gives the same answer again. For others: `(umask 077; head -c 32 "
    "/dev/urandom | base64 > token)`, then rollstream gateway ... --host 0.0.0.0 --token-file token."
)


@reaches_redis
def gateway(  # noqa: PLR0913, PLR0917 - a command's options are its parameters
    policy: Policy,
    tokenizer: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The model's tokenizer, with its chat template for conversations.")
    ],
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    port: Port = "8000",
    host: Host = "127.0.0.1",
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the token that clients send as API key; without it, ROLLSTREAM_GATEWAY_TOKEN's value.",
        ),
    ] = None,
    max_body_bytes: Annotated[int, typer.Option(min=1024, max=2**28, help="The most bytes of one request.")] = 2**22,
    max_requests: Annotated[
        int, typer.Option(min=1, max=4000, help="Requests at once, streams too; others are answered with 429.")
    ] = 1024,
    timeout_s: Annotated[
        float, typer.Option(min=0.1, max=86400, help="So long a request waits for its answer; then 504.")
    ] = 600.0,
    grace_s: Annotated[
        float, typer.Option(min=0, max=3600, help="So long requests that run may go on after SIGTERM.")
    ] = 10.0,
    max_tokens: Annotated[
        int, typer.Option(min=1, max=2**20, help="Tokens of a completion whose request does not say.")
    ] = 1024,
    max_completions: Annotated[
        int, typer.Option(min=1, max=2**18, help="Completions of one request: its prompts times n.")
    ] = 4096,
    max_characters: Annotated[
        int, typer.Option(min=1024, max=2**28, help="Characters of one prompt or conversation.")
    ] = 2**20,
    session_retention_s: Annotated[
        float,
        typer.Option(
            min=SHORTEST_SESSION_RETENTION_S,
            max=LONGEST_SESSION_RETENTION_S,
            help="A session and the results of its turns stay so long after a turn; give what its trainer gives.",
        ),
    ] = SESSION_RETENTION_S,
    tool_calls: Annotated[
        str,
        typer.Option(metavar="NAME", help="How replies write calls: auto (by the template), none, hermes, ..."),
    ] = "auto",
) -> None:
    """Serve a policy to clients of OpenAI's API: /v1/chat/completions, /v1/completions, /v1/models, /health.

    It loads no model: requests become jobs, which the policy's workers answer. Prints the base URL for clients.
    Parameters that are not offered are refused by name. What stands in docs/gateway.md: sessions, streams, errors.
    """
    number = port_number(port)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s")
    with exit_codes():
        try:
            from ...gateway.chat import ChatTemplateError  # noqa: PLC0415 - an extra, which only this command needs
            from ...gateway.chat.parsers import NAMES  # noqa: PLC0415 - see above
            from ...gateway.gate import Bounds  # noqa: PLC0415 - see above
            from ...gateway.serve import serve  # noqa: PLC0415 - see above
            from ...gateway.settings import GatewaySettings  # noqa: PLC0415 - see above
        except ModuleNotFoundError as error:
            needed = str(error.name).partition(".")[0]
            raise cannot_start(f"the gateway needs {needed}: pip install 'rollstream[gateway]'") from None
        if tool_calls not in (known := ("auto", *NAMES)):
            raise cannot_start(f"--tool-calls {tool_calls}: give one of {', '.join(known)}")
        try:
            settings = GatewaySettings(
                redis=redis,
                policy=policy,
                tokenizer=tokenizer,
                partitions=partitions,
                host=host,
                port=number,
                token=read_token(token_file, os.environ, VARIABLE),
                bounds=Bounds(most_body=max_body_bytes, most_requests=max_requests),
                timeout_s=timeout_s,
                grace_s=grace_s,
                max_tokens=max_tokens,
                max_completions=max_completions,
                max_characters=max_characters,
                session_retention_s=session_retention_s,
                tool_calls=tool_calls,
            )
            raise typer.Exit(asyncio.run(serve(settings, typer.echo)))
        except (ServerSetupError, PromptFileError, ChatTemplateError, RedisUnavailableError) as error:
            raise cannot_start(str(error)) from None
