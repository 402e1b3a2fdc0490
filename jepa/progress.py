"""A progress bar on stderr, where `rich` is installed and stderr is a terminal; silent otherwise, and with --quiet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that moves the bar on by a count.

    Args:
        title: what is being done, one word.
        total: the count at which it is done; 0 shows no bar.

    Example:
        >>> with progress("encoding", total=0) as advance:
        ...     advance(0)
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError:
        yield lambda count: None
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, force_jupyter=False)
    shown = total > 0 and console.is_terminal and logging.getLogger("jepa").isEnabledFor(logging.WARNING)
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
