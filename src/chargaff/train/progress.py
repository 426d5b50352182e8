"""How far a run is, on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 20.0

Show = Callable[[int, str], None]
"""(completed steps, what to say)."""


@contextmanager
def progress(max_steps: int, *, completed_steps: int = 0, title: str = "training") -> Iterator[Show]:
    """A function that shows the progress while the block runs."""
    if not sys.stderr.isatty():
        yield _lines(max_steps)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    with Progress(*columns, console=_console()) as bar:
        task = bar.add_task(title, total=max_steps, completed=completed_steps, facts="")
        yield lambda step, facts: bar.update(task, completed=step, facts=facts)


def _console() -> Console:
    """That of the log, if it has one, so that messages appear above the bar and not in it."""
    consoles = [getattr(handler, "console", None) for handler in logging.getLogger("chargaff").handlers]
    return next((found for found in consoles if isinstance(found, Console)), None) or Console(stderr=True)


def _lines(max_steps: int) -> Show:
    shown_at = float("-inf")

    def show(step: int, facts: str) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if step >= max_steps or now - shown_at >= SECONDS_BETWEEN_LINES:
            shown_at = now
            log.info("step %d of %d: %s", step, max_steps, facts)

    return show
