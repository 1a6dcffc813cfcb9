"""A session: tasks to published prompts on one frozen base. Prepare, baselines, train, judge, publish: the one pipeline.

It yields what happens as it happens, and does nothing between two events that its caller does not see: who stops asking
pauses it, and what the caller does meanwhile (adding tasks, dropping them, telling it to stop) counts from the next step on.
A prompt is published as soon as its run has ended and is judged, whatever its neighbours still do; a task that fails leaves
them alone.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from softprompt.engines.offline import OfflineEngine
from softprompt.errors import TrainingError
from softprompt.evaluation.baselines import baseline_trials, untaught
from softprompt.evaluation.findings import remarks_on_baselines
from softprompt.evaluation.trials import Report, Trial, judge_apart
from softprompt.model.architecture import Architecture
from softprompt.tasks.task import Task
from softprompt.training.checkpoint import EVERY_SECONDS, Checkpoint, key_of, name_of
from softprompt.training.events import (
    Advanced,
    Event,
    Failed,
    Judged,
    Noted,
    Prepared,
    Resumed,
    Stepped,
    Stopped,
    Trained,
    standing,
)
from softprompt.training.member import Also, Member
from softprompt.training.prepare import Preparer
from softprompt.training.publish import publishing
from softprompt.training.remarks import remarks_on
from softprompt.training.steps.bank import Banks
from softprompt.training.steps.loop import Group, Stepper
from softprompt.training.steps.run import Run

if TYPE_CHECKING:
    from softprompt.library.library import Library


class _StopAsked(BaseException):
    """The session was told to stop. No `Exception`, so that nothing on the way takes it for a fault of its own."""


class Session:
    """One training of tasks on one base."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        library: Library | None = None,
        checkpoints: Path | None = None,
        name: str | None = None,
        salt: str = "",
        every: float = EVERY_SECONDS,
        tries: int = 1,
        group: Group | None = None,
        stop: threading.Event | None = None,
        prompts: Mapping[str, bytes] | None = None,
    ) -> None:
        """
        Args:
            architecture: the base behind prompts.
            library: where prompts are published, unless a task brings its own.
            checkpoints: folder of checkpoints; by default the library's. Without either none are kept.
            name: of its checkpoint; by default one that its first tasks make, so that the same tasks find it again.
            salt: what else than its tasks decides how the session goes; another salt never takes its checkpoint.
            every: seconds between checkpoints.
            tries: how often a prompt is published again where registry or store fail, each after twice as long as before.
            group: the processes that train together; the first of them alone judges, publishes and speaks.
            stop: the session stops once it is set, as by :meth:`stop`.
            prompts: files of those that tasks start from, by the references there; by default the library's.
        """
        self.architecture, self.base, self.library = architecture, architecture.base, library
        self.members: list[Member] = []
        self._waiting: list[Member] = []
        self._leaving: list[Member] = []
        self._trained: list[Member] = []
        self._runs: list[Run] = []  # theirs, in the order of the bank
        self._group, self._stop = group or Group(), stop or threading.Event()
        self._folder = checkpoints or (library.runs if library is not None else None)
        self._name, self._salt, self._every, self._tries = name, salt, every, tries
        self._checkpoint: Checkpoint | None = None
        self._notes: list[Noted] = []
        self._done, self._started = -1, time.perf_counter()
        heed = self._heed if self._group.world == 1 else None
        self._preparer = Preparer(self.base, architecture, self._warn, heed, prompts=prompts)
        self._engine = OfflineEngine(architecture, warn=self._warn)
        self._stepper = Stepper(architecture, group=self._group, warn=self._warn)
        self._bank = Banks([], [], self.base.device)

    def add(
        self, task: Task, *, library: Library | None = None, publishes: bool = True, also: Also | None = None, salt: str = ""
    ) -> Member:
        """Let a task in; it is prepared before the next step.

        Args:
            library: where its prompt is published; by default the session's.
            publishes: whether it is judged and published by itself when its run ends.
            also: what is to be done in the transaction that publishes it.
            salt: tells it apart from equal tasks, also where those are there no more when it goes on from a checkpoint.
        """
        member = Member(task, library or self.library, publishes, also, salt)
        self.members.append(member)
        self._waiting.append(member)
        return member

    def drop(self, member: Member) -> None:
        """Give a member up: it takes no more steps and is not published. Harmless for one that has ended."""
        if member in self._waiting:
            self._waiting.remove(member)
            member.ended = True
        elif not member.ended:
            member.run.dropped = True

    def judge(self, members: Sequence[Member]) -> list[Report | None]:
        """What members that train are worth on their validation rows as they are now; none for one that gives no numbers.
        It is no validation of theirs: whatever comes of them is what would have come without it."""
        places = [member.places.start for member in members]
        judged = self._stepper.judge(self._bank, self._runs, places)
        return [judged[place][0] for place in places]

    def pause(self, member: Member) -> None:
        """Give a member up as :meth:`drop` does, and keep what it has trained, for a session that has it again, or for this
        one once it is added again."""
        if member in self._waiting:
            self.drop(member)
        elif not member.ended:
            member.paused = member.run.stopped = True
            self._save()

    def release(self, member: Member) -> None:
        """Give back what a member holds that was dropped, or has been published or failed: as the next one enters, so that
        a session to which tasks are added again and again holds no more than those that run. Of one that is paused, or
        could not be published, the checkpoint keeps what it has trained, for when it is added again."""
        self._leaving.append(member)

    def stop(self) -> None:
        """Write a checkpoint behind the present step, or chunk of rows, and end. Safe from signal handlers and threads."""
        self._stop.set()

    def run(self) -> Iterator[Event]:
        """Do all of it; the last event is `Stopped` where it was told to stop before it was done. What a single task cannot
        do comes as `Failed`.

        Raises:
            TrainingError, BaseModelError: no single task is to blame.
        """
        try:
            while True:
                yield from self._enter()
                yield from self._end()
                self._heed()
                took = {id(self._runs[place]) for place in self._stepper.step(self._bank, self._runs)}
                if took:
                    yield Stepped(tuple(member for member in self._trained if id(member.run) in took))
                    yield from self._flush()
                    yield from self._advance()
                    if self._checkpoint is not None and self._checkpoint.due:
                        self._save()
                elif not self._waiting:
                    yield Trained()
                    yield from self._end()
                    if not self._waiting:
                        break
        except _StopAsked:
            self._save()
            yield from self._flush()
            yield Stopped()
            return
        except Exception:
            yield from self._flush()
            raise
        yield from self._advance()  # early ends count as whole
        self._discard()
        yield from self._flush()

    # Prepare

    def _enter(self) -> Iterator[Event]:
        """Prepare the members that wait, and measure their baselines."""
        new, ready = [*self._waiting], list[Member]()
        if new:
            self._let_go()
        for number, member in enumerate(new, 1):
            if member.ended:  # dropped while others were prepared
                continue
            try:
                member.run, member.test = yield from self._preparer.preparing(
                    member.task, member.library, member.begins, keeps_start=member.keeps_start
                )
            except Exception as error:
                self._waiting = [one for one in self._waiting if one is not member]
                yield self._failed(member, error)
                continue
            if member.ended:  # dropped meanwhile
                continue
            self._waiting.remove(member)
            for message, warning in remarks_on(self.base, member.run):
                yield Noted(message, member, warning)
            yield Advanced("read", number, len(new), member.task.name)
            self._place(member)
            ready.append(member)
        if not ready:
            return
        entering = self._runs[ready[0].places.start :]
        self._bank.extend([run.start_PD for run in entering], [run.rule for run in entering])
        self._trained += ready
        yield from self._restore(ready)
        yield from self._measure([member for member in ready if member.publishes])
        for member in ready:
            if member.error is None:
                member.prepared = True
                yield Prepared(member)
        if not all(member.resumed for member in ready):
            self._save()  # the names of the runs, by which each is published once
        yield from self._flush()
        yield from self._advance()

    def _place(self, member: Member) -> None:
        member.places = range(len(self._runs), len(self._runs) + len(member.runs))
        self._runs += member.runs

    def _let_go(self) -> None:
        """Of those that are released."""
        gone, self._leaving = set(self._leaving), []
        if not gone:
            return
        if self._checkpoint is not None:
            left = [member for member in self._trained if member in gone]
            self._checkpoint.forget(member.key for member in left)
            self._checkpoint.others |= self._states_of([member for member in left if _may_go_on(member)])
        for member in gone:
            self._preparer.forget(member.task)
        self.members = [member for member in self.members if member not in gone]
        self._trained = [member for member in self._trained if member not in gone]
        self._bank.keep([place for member in self._trained for place in member.places])
        self._runs = []
        for member in self._trained:
            self._place(member)

    def _restore(self, ready: Sequence[Member]) -> Iterator[Event]:
        """Let members go on from the checkpoint that has them."""
        known = {member.key for member in self._trained}
        for member in ready:
            key = f"{key_of(self.base, member.run)}-{member.salt}".removesuffix("-")
            member.key = next(name for n in range(len(known) + 1) if (name := f"{key}-{n}") not in known)
            member.id = secrets.token_hex(16)
            known.add(member.key)
        if self._folder is not None and self._checkpoint is None:
            name = self._name or name_of([member.key for member in ready], self._salt)
            self._checkpoint = Checkpoint(self._folder, name, self._warn, self._every)
            self._checkpoint.others = self._group.from_first(self._checkpoint.load)
        for member in ready:
            state = self._checkpoint.others.pop(member.key, None) if self._checkpoint is not None else None
            if state is not None:
                member.load_state(state, self._bank)
        yield from self._flush()
        if resumed := [member for member in ready if member.resumed]:
            furthest = max(member.run.step for member in resumed)
            if len(ready) == len(self._trained):
                yield Noted(f"going on from step {furthest} of a training that was stopped")
            else:  # which is no news of those that run
                for member in resumed:
                    yield Noted(f"going on from step {member.run.step}, where it was stopped", member)
            yield Resumed(furthest)
            yield from self._advance()

    def _measure(self, members: Sequence[Member]) -> Iterator[Event]:
        """The baselines of those that have none yet."""
        trials: dict[Member, list[Trial]] = {}
        for member in members:
            if member.baselines is None and member.error is None and self._group.leads:
                try:
                    trials[member], warning = baseline_trials(self.base, member.task, member.run.start_PD, member.test)
                except Exception as error:
                    yield self._failed(member, error)
                    continue
                if warning is not None:
                    yield Noted(warning, member, warning=True)
        reports = yield from self._judged("baselines", trials)
        for member, own in reports.items():
            try:
                member.took_baselines(own)
            except Exception as error:
                yield self._failed(member, error)
                continue
            for remark in remarks_on_baselines(member.task.form.metric, untaught(member.task, member.baselines or {})):
                yield Noted(f"{member.task.name}: {remark}", member)

    # Judge and publish

    def _end(self) -> Iterator[Event]:
        """Judge and publish the members whose runs have ended."""
        for member in self._trained:
            if not member.ended and not member.run.running:
                member.ended = True
                if member.run.failure is not None:
                    yield self._failed(member, TrainingError(member.run.failure))
        over = [one for one in self._trained if one.ended and one.publishes and not (one.run.dropped or one.paused)]
        over = [member for member in over if not member.error and not member.tuned]
        if not over or not self._group.leads:
            return
        yield from self._measure(over)
        trials = {
            member: [Trial(member.run.form, member.run.best_PD.cpu().to(self.base.dtype), member.test)]
            for member in over
            if member.error is None and member.run.best_PD is not None
        }
        reports = yield from self._judged("test", trials)
        for member, (report,) in reports.items():
            yield Judged(member, report)
            try:
                yield from publishing(self.architecture, member, report, tries=self._tries, since=self._started)
            except Exception as error:
                yield self._failed(member, error)

    def _judged(
        self, stage: str, trials: Mapping[Member, Sequence[Trial]]
    ) -> Generator[Event, None, dict[Member, list[Report]]]:
        """Reports of all members' trials; those whose trials fail have failed."""
        if not trials:
            return {}
        done, total = 0, sum(len(trial.examples) for own in trials.values() for trial in own)
        judging = judge_apart(self._engine, trials)
        try:
            while True:
                yield Advanced(stage, done, total)
                if done and self._group.world == 1:  # the others could not follow
                    self._heed()
                done = min(done + next(judging), total)
        except StopIteration as end:
            found: dict[Member, list[Report] | Exception] = end.value
        for member, own in found.items():
            if isinstance(own, Exception):
                yield self._failed(member, own)
        return {member: own for member, own in found.items() if not isinstance(own, Exception)}

    def _heed(self) -> None:
        """Raises where the session was told to stop and is not done; all processes together, or none."""
        if self._group.from_first(self._stopping):
            raise _StopAsked

    def _stopping(self) -> bool:
        return self._stop.is_set() and any(not member.tuned and not member.error for member in self.members)

    def _failed(self, member: Member, error: Exception) -> Failed:
        member.error, member.ended = error, True
        if self._group.world == 1 and member in self._trained:  # of several processes the others do not know of it
            member.run.stopped = True
        return Failed(member, error, member.prepared)

    def _advance(self) -> Iterator[Event]:
        """How far training is, where that is news."""
        runs = [(member.run, member.ended or member.run.dropped) for member in self._trained]
        done = sum(run.total if ended else run.step for run, ended in runs)
        if done != self._done:
            self._done = done
            yield Advanced("train", done, sum(run.total for run, _ in runs), standing([run for run, _ in runs]))

    def _warn(self, message: str) -> None:
        self._notes.append(Noted(message, warning=True))

    def _flush(self) -> Iterator[Event]:
        while self._notes:
            yield self._notes.pop(0)

    def _save(self) -> None:
        if self._checkpoint is not None and self._group.leads:
            self._checkpoint.save(self._states_of(self._trained))

    def _discard(self) -> None:
        """The session is done; what could be trained and not published stays for the next."""
        if self._checkpoint is not None and self._group.leads:
            kept = [member for member in self._trained if _may_go_on(member)]
            self._checkpoint.discard([member.key for member in self._trained], self._states_of(kept))

    def _states_of(self, members: Sequence[Member]) -> dict[str, dict[str, object]]:
        return {member.key: member.state(self._bank) for member in members}


def _may_go_on(member: Member) -> bool:
    """Whether one that takes no more steps could do so another time, or be published then."""
    return member.paused or (member.error is not None and member.run.failure is None)
