"""A bar on stderr for whoever waits: groups done, their rate, the time left; one last line where it is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} groups/s", style="progress.data.speed")


@contextmanager
def progress_bar(batch_id: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes the groups done so far."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(batch_id[:16], total=total)
        yield lambda done: progress.update(task, completed=done)
