"""Telling people what goes on: progress bars, notes and warnings, on stderr or nowhere. No torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Advance = Callable[[int, str], None]
"""Called with steps just done and a short text to show beside the bar."""


class Progress(Protocol):
    """Where a long piece of work reports to. Implementations: :class:`Silent`, :class:`Bars`."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """A stage of so many steps, as a context manager that gives its :data:`Advance`."""

    def note(self, message: str) -> None:
        """A line worth reading."""

    def warn(self, message: str) -> None:
        """A line that asks for attention; each text is shown once."""


@contextmanager
def loading(progress: Progress, what: str) -> Iterator[None]:
    """A stage of one step, for what is loaded once and takes seconds."""
    with progress.stage("load", 1) as advance:
        advance(0, what)
        yield
        advance(1, what)


def loading_torch(progress: Progress) -> AbstractContextManager[None]:
    """Around imports behind checks that need none of them: a stage where they take seconds, as torch is not there yet."""
    return nullcontext() if "torch" in sys.modules else loading(progress, "torch")


def rate(speed: float | None) -> str:
    """Steps a second, or seconds a step where that is the larger number; empty where it is not known."""
    if not speed:
        return ""
    if speed >= 1:
        return f"{speed:,.{int(speed < 10)}f}/s"
    return f"{1 / speed:,.{int(speed > 0.1)}f} s each"


def _levels_to_the_caller() -> int:
    """How far up the first frame is that is none of this package: where the user's own code called it."""
    frame, levels = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, levels = frame.f_back, levels + 1
    return levels


class Silent:
    """Says nothing but warnings, through Python's `warnings`."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        yield lambda steps, text: None

    def note(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        import warnings

        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, UserWarning, stacklevel=_levels_to_the_caller())


class Mute(Silent):
    """Says nothing at all: for the processes beside the one that speaks."""

    def warn(self, message: str) -> None:
        pass


class Bars:
    """Bars and lines on stderr: rich bars on a terminal, a line at each tenth of the way elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, emoji=False)
        self._bars: RichProgress | None = None
        self._warned: set[str] = set()

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        if not self.console.is_terminal:
            yield self._lines(name, total)
            return
        bars = self._open_bars()  # one display for all stages: a stage may begin while another goes on
        bar = bars.add_task(name, total=total, text="")
        try:
            yield lambda steps, text: bars.update(bar, advance=steps, text=text)
        finally:
            bars.stop_task(bar)
            if all(task.stop_time is not None for task in bars.tasks):
                bars.stop()
                self._bars = None

    def _open_bars(self) -> RichProgress:
        from rich.progress import (
            BarColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column
        from rich.text import Text

        class RateColumn(ProgressColumn):
            def get_table_column(self) -> Column:
                return Column(no_wrap=True)

            def render(self, task: Task) -> Text:
                return Text(rate(task.finished_speed or task.speed if (task.total or 0) > 1 else None))

        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description:<10}"),
                BarColumn(bar_width=12),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                RateColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=self.console,
            )
            self._bars.start()
        return self._bars

    @contextmanager
    def loading(self, what: str) -> Iterator[None]:
        """A spinner on a terminal, a line elsewhere, for what takes a second or two."""
        if not self.console.is_terminal:
            sys.stderr.write(f"load: 0% {what}\n")
            sys.stderr.flush()
            yield
            return
        with self.console.status(f"loading {what}"):
            yield

    def _lines(self, name: str, total: int) -> Advance:
        done, shown = 0, -1 if name == "train" else 0
        if name != "train":  # its first line says where a run goes on that was stopped
            sys.stderr.write(f"{name}: 0%\n")
            sys.stderr.flush()

        def advance(steps: int, text: str) -> None:
            nonlocal done, shown
            done += steps
            tenth = 10 * done // max(1, total)
            if tenth > shown:
                shown = tenth
                sys.stderr.write(f"{name}: {min(100, 10 * tenth)}% {text}\n")
                sys.stderr.flush()

        return advance

    def note(self, message: str) -> None:
        self.console.print(message, markup=False, soft_wrap=not self.console.is_terminal)

    def warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self.console.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=not self.console.is_terminal)
