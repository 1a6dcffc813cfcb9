"""A worker: the base, and one bank after the other trained on it. What runs in a process of its own."""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import socket
import tempfile
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from softprompt.errors import SoftPromptError, TrainingError, reason_of
from softprompt.training.workers.work import Ended, Loaded, Made, Reached, Said, Saved, Told, Work, Wrong

if TYPE_CHECKING:
    from softprompt.bases.options import BaseOptions
    from softprompt.model.architecture import Architecture
    from softprompt.training.events import Event
    from softprompt.training.steps.loop import Group


class Worker:
    """What trains in a worker's process. Where several share the rows of each step, there is one in each of their
    processes, and the first of them alone tells something."""

    def __init__(self) -> None:
        """Nothing is loaded yet."""
        self._architecture: Architecture | None = None
        self._group: Group | None = None
        self._stop = threading.Event()

    def load(self, options: BaseOptions, folder: str) -> Loaded | SoftPromptError:
        """Load the base, and say which it is; or what is wrong.

        Args:
            folder: where the command was given; paths mean what they mean there, if there is such a folder here.
        """
        from softprompt.bases.base import FrozenBase
        from softprompt.model.architecture import architecture_of

        with contextlib.suppress(OSError):
            os.chdir(folder)
        try:
            base = FrozenBase.load(options)
            self._architecture = architecture_of(base)
        except SoftPromptError as error:
            return error
        return Loaded(
            base=base.name,
            address=base.address,
            fingerprint=base.fingerprint,
            package=version("softprompt"),
            machine=platform.node(),
        )

    def meeting(self, host: str | None) -> tuple[str, int]:
        """A free port where processes can meet, at `host`, else at this machine's address in its cluster."""
        if host is None:
            from ray.util import get_node_ip_address

            host = str(get_node_ip_address())
        with socket.socket() as free:
            free.bind((host, 0))
            return host, int(free.getsockname()[1])

    def join(self, rank: int, world: int, meeting: tuple[str, int]) -> None:
        """Be process `rank` of `world`, as if a launcher had started them."""
        host, port = meeting
        os.environ.update(
            RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0", LOCAL_WORLD_SIZE="1",
            MASTER_ADDR=host, MASTER_PORT=str(port),
        )  # fmt: skip
        from softprompt.training.steps.loop import Group

        self._group = Group.current()

    def train(self, work: Work) -> Iterator[Told]:
        """Train a bank, and tell what happens; the last thing is `Ended`."""
        from softprompt.training.session import Session

        assert self._architecture is not None
        with tempfile.TemporaryDirectory(prefix="softprompt-worker-") as name:
            file = Path(name) / f"{work.name}.checkpoint"
            if work.checkpoint is not None:
                file.write_bytes(work.checkpoint)
            session = Session(
                self._architecture, checkpoints=file.parent, name=work.name, every=work.every, group=self._group,
                stop=self._stop, prompts=work.prompts,
            )  # fmt: skip
            for task in work.tasks:
                session.add(task)
            events, kept, stopped = session.run(), None, False
            while True:
                try:
                    event = next(events, None)
                except SoftPromptError as error:
                    yield Wrong(None, sendable(error), keeps=True)
                    break
                found = _written(file)
                if found is not None and found != kept:  # before what came of it
                    kept = found
                    yield Saved(file.read_bytes())
                if event is None:
                    break
                told = self._told(event)
                if isinstance(told, Ended):
                    stopped = True
                elif told is not None:
                    yield told
        yield Ended(stopped)

    def follow(self, work: Work) -> None:
        """Train as one of several, of whom the first tells what happens."""
        for _ in self.train(work):
            pass

    def _told(self, event: Event) -> Told | None:
        from softprompt.training.events import Advanced, Failed, Noted, Published, Stopped
        from softprompt.training.publish import origin_of

        assert self._architecture is not None
        if isinstance(event, Advanced):
            return Reached(event.stage, event.done / event.total if event.total else 1.0, event.text)
        if isinstance(event, Noted):
            return Said(event.message, event.warning)
        if isinstance(event, Published):
            return Made(event.member.task.name, event.tuned, origin_of(event.member, self._architecture.base))
        if isinstance(event, Failed):
            diverged = event.trained and event.member.run.failure is not None
            return Wrong(event.member.task.name, sendable(event.error), diverged, event.trained and not diverged)
        return Ended(True) if isinstance(event, Stopped) else None

    def stop(self) -> None:
        """End behind the present step, with a checkpoint; nothing more is trained here."""
        self._stop.set()


def _written(file: Path) -> tuple[int, int] | None:
    """Tells one content of a file that is replaced whole from the next; None where there is none."""
    with contextlib.suppress(OSError):
        state = file.stat()
        return state.st_ino, state.st_mtime_ns
    return None


def sendable(error: Exception) -> Exception:
    """An error that can go to another process: itself, or what it says in the nearest of our own classes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever it holds
        for kind in type(error).__mro__:
            if kind.__module__ == SoftPromptError.__module__:
                made: Exception = kind(str(error))
                return made
        said = f"{type(error).__name__}: {reason_of(error)}"
        return TrainingError(f"a worker failed ({said}); see what `ray logs` has of it")
    return error.with_traceback(None)
