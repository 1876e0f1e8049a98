"""Commands that show how the fleet does, for people and for Prometheus."""

from __future__ import annotations

import typer

commands = typer.Typer()
"""`app` adds these commands to `rollstream`."""
