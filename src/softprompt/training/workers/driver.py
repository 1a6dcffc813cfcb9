"""The driver of a training by workers: who has which bank, what becomes of lost ones, and the one that publishes.

A thread for each worker hands it banks and puts what it tells into one inbox; all that is decided is decided by who reads
that. Prompts are published in the order of tasks, each as soon as all before it are published or have failed.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from softprompt.errors import BaseModelError, SoftPromptError, TrainingError, reason_of
from softprompt.files import write_whole
from softprompt.text import plural
from softprompt.training.events import Advanced, Noted
from softprompt.training.publish import enter
from softprompt.training.workers.work import Ended, Loaded, Made, Reached, Said, Saved, Told, Work, Wrong

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.training.member import Tuned

LOST = 3
"""Workers that a bank may be on when they are lost, one after the other, and starts of one that may fail in a row."""
UNITS = 100
"""Of progress, for each task."""


class WorkerLost(Exception):
    """A worker's process is gone, or could not be started for want of room or time."""


class NoRoom(WorkerLost):
    """A worker could not be started in time, and another try would end alike."""


class Hired(Protocol):
    """A worker that is ready."""

    loaded: Loaded

    def train(self, work: Work) -> Iterator[Told]:
        """Train a bank; the last thing told is `Ended`. Raises `WorkerLost`, or that the bank cannot be handed over."""
        ...

    def stop(self) -> None:
        """Let it end behind its present step. Returns at once."""
        ...

    def close(self) -> None:
        """End its process."""
        ...


class Launcher(Protocol):
    """Starts workers."""

    def start(self) -> Hired:
        """A worker with the base loaded. Raises `WorkerLost`, or what the worker says is wrong."""
        ...


@dataclass(eq=False)
class Outcome:
    """What came of a task."""

    task: str
    tuned: Tuned | None = None
    """As published."""
    made: Made | None = None
    """Waits for those before it."""
    wrong: Wrong | None = None

    @property
    def settled(self) -> bool:
        """Whether a worker has nothing more to do for it."""
        return self.made is not None or self.wrong is not None


@dataclass(eq=False)
class _Bank:
    work: Work
    shares: dict[str, float] = field(default_factory=dict)
    """How far its stages are."""
    text: str = ""
    step_known: bool = False
    lost: int = 0
    hired: Hired | None = None
    """Who trains it."""
    ended: bool = False


class Driver:
    """One training of banks by workers."""

    def __init__(
        self,
        launcher: Launcher,
        works: Sequence[Work],
        library: Library,
        *,
        workers: int,
        stop: threading.Event | None = None,
    ) -> None:
        """
        Args:
            workers: how many there are at most.
            stop: the training stops once it is set.
        """
        self.outcomes = [Outcome(task.name) for work in works for task in work.tasks]
        self.stopped = False
        """Whether it ended before it was done, as it was told."""
        self._launcher, self._library, self._stop = launcher, library, stop or threading.Event()
        self._banks = [_Bank(work) for work in works]
        self._workers = min(workers, len(works))
        self._waiting = [*self._banks]
        self._changed = threading.Condition()
        self._inbox = queue.SimpleQueue[tuple[_Bank | None, Told | Loaded | Exception]]()
        self._loaded: Loaded | None = None
        self._fatal: Exception | None = None
        self._closing = False
        self._there = 0
        self._drawn = False
        self._shown: dict[str, tuple[int, str]] = {}
        self._began = time.perf_counter()

    def run(self) -> Iterator[Advanced | Noted]:
        """Do all of it; what comes of tasks is in `outcomes`.

        Raises:
            BaseModelError: a worker cannot load the base, or has another one than the others.
            TrainingError: there is no worker left.
        """
        threads = [threading.Thread(target=self._employ, name=f"worker {n}", daemon=True) for n in range(self._workers)]
        for thread in threads:
            thread.start()
        told = set[Hired]()
        yield Advanced("load", 0, self._workers, plural(self._workers, "worker"))
        try:
            while not self._over():
                if self._ending:
                    for hired in self._busy() - told:
                        told.add(hired)
                        hired.stop()
                try:
                    bank, what = self._inbox.get(timeout=0.1)
                except queue.Empty:
                    continue
                yield from self._took(bank, what)
            self.stopped = self._ending and not all(bank.ended for bank in self._banks)
            yield from self._publish(all_that_are_made=True)
            self._forget()
            if self._fatal is not None:
                raise self._fatal
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            for thread in threads:  # one that waits for its base ends with the cluster
                thread.join(1.0 if thread.is_alive() else 0)

    # In the threads of workers

    def _employ(self) -> None:
        """Start a worker and give it banks; where it is lost, start another."""
        hired, failed = None, 0
        while True:
            try:
                if hired is None:
                    if self._closing or self._ending:
                        return
                    hired = self._launcher.start()
                    self._admit(hired.loaded)
                    self._inbox.put((None, hired.loaded))
                    failed = 0
            except WorkerLost as error:
                failed += 1
                if failed == LOST or isinstance(error, NoRoom):
                    self._inbox.put((None, error))
                    return
                continue
            except Exception as error:  # no other worker would do better
                _close(hired)
                if not isinstance(error, SoftPromptError):
                    error = TrainingError(f"no worker could be started ({_words(error)}); see what `ray logs` has of it")
                self._inbox.put((None, error))
                return
            bank = self._next(hired)
            if bank is None:
                _close(hired)
                return
            try:
                for told in hired.train(bank.work):
                    self._inbox.put((bank, told))
            except SoftPromptError as error:  # the bank cannot be handed over
                self._inbox.put((bank, Wrong(None, error)))
                self._inbox.put((bank, Ended(False)))
            except Exception as error:
                _close(hired)
                hired = None
                self._inbox.put((bank, error if isinstance(error, WorkerLost) else WorkerLost(_words(error))))

    def _admit(self, loaded: Loaded) -> None:
        """Raises where a worker is not as the first one."""
        with self._changed:
            first = self._loaded = self._loaded or loaded
        if loaded.package != first.package:
            raise TrainingError(
                f"{loaded.machine} has softprompt {loaded.package}, and {first.machine} {first.package}; install one "
                "version on all machines"
            )
        if loaded.fingerprint != first.fingerprint:
            raise BaseModelError(
                f"{loaded.address} is another base on {loaded.machine} (fingerprint {loaded.fingerprint[:12]}) than on "
                f"{first.machine} ({first.fingerprint[:12]}); put the same files on all machines"
            )

    def _next(self, hired: Hired) -> _Bank | None:
        """A bank that waits for a worker; None when none will any more."""
        with self._changed:
            while not (self._closing or self._ending or all(bank.ended for bank in self._banks)):
                if self._waiting:
                    bank = self._waiting.pop(0)
                    bank.hired = hired
                    return bank
                self._changed.wait(0.1)
            return None

    # In the thread that runs it

    @property
    def _ending(self) -> bool:
        return self._fatal is not None or self._stop.is_set()

    def _over(self) -> bool:
        return not self._busy() and (self._ending or all(bank.ended for bank in self._banks))

    def _busy(self) -> set[Hired]:
        with self._changed:
            return {bank.hired for bank in self._banks if bank.hired is not None}

    def _took(self, bank: _Bank | None, what: Told | Loaded | Exception) -> Iterator[Advanced | Noted]:
        """What a worker told, or what became of it."""
        if isinstance(what, Loaded):
            self._library.registry.check_names([one.task for one in self.outcomes], what.base)
            if not self._there:
                self._began = time.perf_counter()
            if self._there < self._workers:  # those that take the places of others are no news
                self._there += 1
                yield Advanced("load", self._there, self._workers, plural(self._there, "worker"))
        elif bank is None:
            yield from self._lost_a_place(what)
        elif isinstance(what, WorkerLost):
            yield from self._lost(bank, what)
        elif isinstance(what, Saved):
            bank.work = replace(bank.work, checkpoint=what.data)
            yield from self._keep(bank.work)
        elif isinstance(what, Said):
            yield Noted(what.message, warning=what.warning)
        elif isinstance(what, Reached):
            yield from self._reached(bank, what)
        elif isinstance(what, Made | Wrong):
            self._came(bank, what)
            yield from self._publish()
            yield from self._standing()
        elif isinstance(what, Ended):
            self._release(bank, ended=not what.stopped)
            yield from self._standing()

    def _lost_a_place(self, what: object) -> Iterator[Noted]:
        self._workers -= 1
        if not isinstance(what, WorkerLost):
            self._fatal = self._fatal or (what if isinstance(what, Exception) else None)
        elif not self._workers:
            self._fatal = TrainingError(f"no worker could be started: {what}; `ray status` says what room there is")
        else:
            left = plural(self._workers, "worker")
            yield Noted(f"a worker could not be started ({what}); training goes on with {left}", warning=True)

    def _lost(self, bank: _Bank, why: WorkerLost) -> Iterator[Noted]:
        bank.lost += 1
        if bank.lost < LOST or self._ending:
            again = "goes on elsewhere" if bank.work.checkpoint is not None else "begins anew elsewhere"
            yield Noted(
                f"a worker was lost ({why}); its bank of {plural(len(bank.work.tasks), 'task')} {again}", warning=True
            )
            self._release(bank, ended=False)
            return
        error = TrainingError(f"{LOST} workers with its bank were lost, one after the other ({why}); make banks smaller")
        self._came(bank, Wrong(None, error, keeps=True))
        self._release(bank, ended=True)
        yield from self._publish()

    def _release(self, bank: _Bank, *, ended: bool) -> None:
        with self._changed:
            bank.hired, bank.ended = None, ended
            if not ended:
                self._waiting.append(bank)
            self._changed.notify_all()

    def _came(self, bank: _Bank, what: Made | Wrong) -> None:
        """Keep what came of a task, once: a bank that goes on from a checkpoint tells of its first ones again."""
        names = {task.name for task in bank.work.tasks} if what.task is None else {what.task}
        for one in self.outcomes:
            if one.task in names and not one.settled:
                one.made, one.wrong = (what, None) if isinstance(what, Made) else (None, what)

    def _publish(self, *, all_that_are_made: bool = False) -> Iterator[Noted]:
        """Publish what is made, up to the first task of which nothing has come yet; in the end also those behind it."""
        for one in self.outcomes:
            if not one.settled and not all_that_are_made:
                return
            if one.made is None or one.tuned is not None or one.wrong is not None:
                continue
            assert self._loaded is not None
            tuned, origin = one.made.tuned, one.made.origin
            try:
                address = self._loaded.address
                version, beside, warnings = enter(self._library, tuned.prompt, origin, tuned.history, address)
            except SoftPromptError as error:
                one.wrong = Wrong(one.task, error, keeps=True)
                continue
            for message in warnings:
                yield Noted(message, warning=True)
            seconds, (live, production) = time.perf_counter() - self._began, beside
            one.tuned = replace(tuned, version=version.number, live=live, production=production, seconds=seconds)

    # Progress and checkpoints

    def _reached(self, bank: _Bank, what: Reached) -> Iterator[Advanced]:
        if what.stage not in ("baselines", "train"):
            return
        bank.shares[what.stage] = what.share
        if what.stage == "train":
            bank.shares["baselines"], bank.step_known, bank.text = 1.0, True, what.text
        yield from self._standing()

    def _standing(self) -> Iterator[Advanced]:
        """How far all of it is. Not before each bank that is trained has said where it goes on."""
        total = UNITS * len(self.outcomes)
        begun = self._drawn or all(bank.step_known for bank in self._banks if bank.hired is not None)
        self._drawn = begun
        for stage in ("baselines", "train") if begun else ("baselines",):
            shares = ((1.0 if bank.ended else bank.shares.get(stage, 0.0)) * len(bank.work.tasks) for bank in self._banks)
            done, text = int(UNITS * sum(shares)), self._text() if stage == "train" else ""
            if stage == "train" and not all(bank.ended for bank in self._banks):
                done = min(done, total - 1)
            if self._shown.get(stage) != (done, text):
                self._shown[stage] = (done, text)
                yield Advanced(stage, done, total, text)

    def _text(self) -> str:
        if len(self._banks) == 1:
            return self._banks[0].text
        settled, running = sum(one.settled for one in self.outcomes), sum(bank.hired is not None for bank in self._banks)
        return f"{plural(len(self.outcomes), 'task')}, {settled} done, {plural(running, 'bank')} under way"

    def _keep(self, work: Work) -> Iterator[Noted]:
        """Write a checkpoint, for who calls again when this process is killed."""
        assert work.checkpoint is not None
        try:
            self._library.runs.mkdir(parents=True, exist_ok=True)
            write_whole(self._library.runs / f"{work.name}.checkpoint", work.checkpoint)
        except OSError as error:
            yield Noted(f"a checkpoint cannot be written ({error}); training goes on", warning=True)

    def _forget(self) -> None:
        """Take away the checkpoints of banks of which everything is published, or would fail again."""
        outcomes = {one.task: one for one in self.outcomes}
        for bank in self._banks:
            own = [outcomes[task.name] for task in bank.work.tasks]
            if all(one.tuned is not None or (one.wrong is not None and not one.wrong.keeps) for one in own):
                (self._library.runs / f"{bank.work.name}.checkpoint").unlink(missing_ok=True)


def _close(hired: Hired | None) -> None:
    """End a worker that may be gone already, and the cluster with it."""
    if hired is not None:
        with contextlib.suppress(Exception):
            hired.close()


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {reason_of(error)}"
