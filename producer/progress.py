"""A bar on stderr for whoever waits: groups done, their rate, the time left; one last line where it is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} {self._unit}/s", style="progress.data.speed")


@contextmanager
def progress_bar(name: str, total: int | None, unit: str = "groups") -> Iterator[Callable[[int], None]]:
    """Yields a function that takes how many are done so far. `total` None: nobody knows how many there are."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    hidden = total is None and not console.is_terminal  # its last line would say nothing
    with Progress(*columns, console=console, disable=hidden, transient=total is None) as progress:
        task = progress.add_task(name[:16], total=total)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def byte_bar(name: str, num_bytes: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """As `progress_bar`, in MiB; the function takes bytes, from any thread. Not `shown`: it does nothing."""
    if not shown:
        yield lambda _done: None
        return
    with progress_bar(name, -(-num_bytes // 2**20), "MiB") as show:
        yield lambda done: show(-(-done // 2**20))
