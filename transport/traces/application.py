"""A program's tracer: it sets OpenTelemetry up from the standard variables, and sends what is left when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .spans import NO_TRACER, Tracer
from .wanted import TracesRefusedError, wanted_exporters

if TYPE_CHECKING:
    from .provider import Provider

END_S = 3.0
"""Most seconds that the end of a program waits for spans to be sent."""
EXTRA = "pip install 'rollstream[otel]'"


class Traces:
    """The spans of one program; `tracer` records nothing where the variables ask for none, or ask in vain."""

    def __init__(self, provider: Provider | None = None) -> None:
        self._provider = provider
        self.tracer: Tracer = NO_TRACER if provider is None else provider.tracer

    def close(self) -> None:
        """Send what is left, for `END_S` at most. Spans that end later are lost."""
        ending = self._ending()
        if ending is not None:
            ending.start()
            ending.join(END_S)

    async def aclose(self) -> None:
        """The same, without blocking the event loop."""
        sent, loop = asyncio.Event(), asyncio.get_running_loop()
        ending = self._ending(lambda: loop.call_soon_threadsafe(sent.set))
        if ending is None:
            return
        ending.start()
        try:
            async with asyncio.timeout(END_S):
                await sent.wait()
        except TimeoutError:
            return

    def _ending(self, ended: Callable[[], object] = lambda: None) -> threading.Thread | None:
        """A thread that sends the rest: OpenTelemetry's own waits have no bound that holds for all exporters."""
        provider, self._provider = self._provider, None
        if provider is None:
            return None

        def end() -> None:
            provider.shutdown()
            try:
                ended()
            except RuntimeError:  # nobody waits any more: the loop has ended
                return

        return threading.Thread(target=end, name="rollstream-traces", daemon=True)


def traces_of(
    environment: Mapping[str, str],
    *,
    service: str,
    instance: str | None = None,
    tell: Callable[[str], object],
    shared: bool = False,
) -> Traces:
    """What the standard variables ask for. Nothing of OpenTelemetry is imported where they ask for no spans.

    `service` and `instance` name the program where the variables do not. `tell` gets one line for people: why no spans
    are recorded although they were asked for, and, now and then, why they cannot be sent. `shared`: also the library's
    calls in this process use them, unless the process has a provider already, as under `opentelemetry-instrument`.
    """
    try:
        exporters = wanted_exporters(environment)
        if not exporters:
            return Traces()
        from .otel import is_set_up  # noqa: PLC0415 - only where it is asked for
        from .provider import Provider  # noqa: PLC0415 - the same

        if shared and is_set_up():
            return Traces()
        provider = Provider(exporters=exporters, environment=environment, service=service, instance=instance, tell=tell)
    except ImportError as error:
        missing = f"OpenTelemetry's {error.name or 'packages'} cannot be imported"
        tell(f"no spans are recorded: the OTEL_ variables ask for them, and {missing}: {EXTRA}, or unset them")
        return Traces()
    except TracesRefusedError as error:
        tell(f"no spans are recorded: {error}")
        return Traces()
    if shared:
        provider.share()
    return Traces(provider)
