"""Spans of the command line, which sets OpenTelemetry up itself, from its standard variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from rollstream.transport.traces.application import traces_of


@contextmanager
def traced() -> Iterator[None]:
    """Around a command that submits or reads batches. At its end it waits a few seconds at most for the collector."""
    traces = traces_of(os.environ, service="rollstream", tell=_tell, shared=True)
    try:
        yield
    finally:
        traces.close()


def _tell(text: str) -> None:
    typer.echo(f"rollstream: {text}", err=True)
