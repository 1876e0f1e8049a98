"""A progress bar on stderr: groups done, their rate, the time left. Without a terminal it is one line at the end.

The first bar imports rich, so that a trainer without bars does not wait for the import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, Task


@contextmanager
def progress_bar(name: str, total: int | None, unit: str = "groups") -> Iterator[Callable[[int], None]]:
    """Yields a function that takes the number done so far. `total` None: the total is not known."""
    from rich.console import Console  # noqa: PLC0415 - see above
    from rich.progress import Progress  # noqa: PLC0415

    console = Console(stderr=True)
    hidden = total is None and not console.is_terminal  # its last line would say nothing
    with Progress(*_columns(unit), console=console, disable=hidden, transient=total is None) as progress:
        task = progress.add_task(name[:16], total=total)
        yield lambda done: progress.update(task, completed=done)


def _columns(unit: str) -> list[ProgressColumn]:
    from rich import progress as of_rich  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415

    class Rate(of_rich.ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:.1f} {unit}/s", style="progress.data.speed")

    return [
        of_rich.TextColumn("{task.description}", markup=False),
        of_rich.BarColumn(),
        of_rich.MofNCompleteColumn(),
        Rate(),
        of_rich.TimeRemainingColumn(),
    ]


@contextmanager
def byte_bar(name: str, num_bytes: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Like `progress_bar`, in MiB; the function takes bytes and may be called in any thread. Not `shown`: no bar."""
    if not shown:
        yield lambda _done: None
        return
    with progress_bar(name, -(-num_bytes // 2**20), "MiB") as show:
        yield lambda done: show(-(-done // 2**20))
