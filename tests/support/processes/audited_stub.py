"""`rollstream-worker --engine stub` whose engine writes down when each request began and ended, and dies on SIGUSR1.

Its caller still has what had arrived when it dies, as with vLLM.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import replace

from rollstream.worker import engine_registry
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import EngineDiedError
from rollstream.worker.requests import Completion, GenerateRequest, Partial

AUDIT = "AUDIT_FILE"
"""The variable with the file's path."""


class AuditedStub(StubEngine):
    """Appends a line to the file of the variable `AUDIT` with each begin and end."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self._file = os.open(os.environ[AUDIT], os.O_APPEND | os.O_WRONLY | os.O_CREAT)
        self._dead = asyncio.Event()
        self._had: dict[str, list[Partial]] = {}

    async def start(self) -> None:
        await super().start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._die)

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        if self._dead.is_set():
            raise EngineDiedError("gone")
        running = asyncio.ensure_future(super().generate(request))
        death = asyncio.ensure_future(self._dead.wait())
        self._note("begin", request)
        try:
            await asyncio.wait({running, death}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise EngineDiedError("gone")
            return running.result()
        finally:
            self._note("end", request)
            running.cancel()
            death.cancel()

    async def check(self) -> None:
        if self._dead.is_set():  # a worker that has nothing to sample must end too
            raise EngineDiedError("gone")

    def partials(self, request_id: str) -> list[Partial]:
        return self._had[request_id] if request_id in self._had else super().partials(request_id)

    def _die(self) -> None:
        self._had = {request_id: super(AuditedStub, self).partials(request_id) for request_id in self._samplings}
        self._dead.set()

    def _note(self, what: str, request: GenerateRequest) -> None:
        line = {
            "what": what, "at": time.time(), "pid": os.getpid(), "id": request.request_id,
            "prompt": len(request.prompt), "samples": request.config.num_return_sequences,
        }  # fmt: skip
        os.write(self._file, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    from rollstream.worker.__main__ import main

    entry = engine_registry.ENGINES["stub"]
    module = "tests.support.processes.audited_stub"
    engine_registry.ENGINES["stub"] = replace(entry, module=module, make="AuditedStub")
    sys.exit(main())
