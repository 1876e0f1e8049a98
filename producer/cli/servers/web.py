"""`rollstream web`: the live page."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rollstream.transport.redis.access import RedisAccess

from ...errors import PromptFileError, RedisUnavailableError
from ...http.errors import ServerSetupError
from ...http.token_file import read_token
from ..options import DEFAULT_REDIS, Partitions, Policy, reaches_redis
from ..output import exit_codes
from .listening import Host, Port, cannot_start, port_number

VARIABLE = "ROLLSTREAM_WEB_TOKEN"
EPILOG = (
    "Example: rollstream web --policy math-7b --port 8080. For others: `(umask 077; head -c 32 /dev/urandom | base64 > "
    "web-token)`, then rollstream web --policy math-7b --host 0.0.0.0 --token-file web-token --allow-actions. "
    "On a host that you reach by ssh: ssh -L 8080:localhost:8080 HOST, then open http://localhost:8080/."
)


@reaches_redis
def web(
    policy: Policy,
    redis: RedisAccess = DEFAULT_REDIS,
    partitions: Partitions = 1,
    port: Port = "8080",
    host: Host = "127.0.0.1",
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File with the token that opens the page; without it, ROLLSTREAM_WEB_TOKEN's value."
        ),
    ] = None,
    allow_actions: Annotated[
        bool,
        typer.Option("--allow-actions", help="Let the page pause, resume, cancel, requeue and drain. Needs a token."),
    ] = False,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The model's tokenizer, to show completions as text.")
    ] = None,
) -> None:
    """Serve a live page of a policy: jobs, workers, batches, versions, errors, dead letters. Prints its URL.

    It reads Redis about twice a second while a browser looks, and works with every worker dead. Ctrl-C ends it.
    """
    number = port_number(port)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s")
    with exit_codes():
        try:
            from ...observe.web.serve import WebSettings, serve  # noqa: PLC0415 - an extra, which only this command needs
        except ModuleNotFoundError as error:
            raise cannot_start(f"the page needs {error.name}: pip install 'rollstream[observe]'") from None
        try:
            settings = WebSettings(
                redis=redis,
                policy=policy,
                partitions=partitions,
                host=host,
                port=number,
                token=read_token(token_file, os.environ, VARIABLE),
                allow_actions=allow_actions,
                tokenizer=tokenizer,
            )
            raise typer.Exit(asyncio.run(serve(settings, typer.echo)))
        except (ServerSetupError, PromptFileError, RedisUnavailableError) as error:
            raise cannot_start(str(error)) from None
