"""Workers as actors of Ray: the one file of this room that knows Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from softprompt.bases.options import BaseOptions
from softprompt.cluster import Place
from softprompt.errors import ConfigError, SoftPromptError, reason_of
from softprompt.training.workers.driver import NoRoom, WorkerLost
from softprompt.training.workers.work import Loaded, Told, Work
from softprompt.training.workers.worker import Worker

START_S = 600.0
"""Seconds that a worker may take from its request to its base."""


class RayWorker:
    """A worker's actors: one, or several that share the rows of each step."""

    def __init__(self, actors: Sequence[Any], loaded: Loaded) -> None:
        """The first of them tells what happens."""
        self.loaded, self._actors = loaded, actors

    def train(self, work: Work) -> Iterator[Told]:
        """Train a bank. Where one of the actors is lost, all are: the others wait for it in the middle of a step.

        Raises:
            WorkerLost: one is.
            ConfigError: a task holds what cannot be sent.
        """
        import ray
        from ray.exceptions import ActorDiedError, RayError

        first, *others = self._actors
        try:
            sent = ray.put(work)
        except RayError:
            raise
        except Exception as error:  # whatever a function of the user's holds
            names = ", ".join(task.name for task in work.tasks)
            raise ConfigError(
                f"a task of the bank {names} cannot be sent to workers: {reason_of(error)}; give rows and functions that "
                "pickle can take, or train without Ray"
            ) from None
        try:
            told = first.train.options(num_returns="streaming").remote(sent)
            waiting = [other.follow.remote(sent) for other in others]
            while True:
                ready, _ = ray.wait([told, *waiting], num_returns=1)
                for one in ready:
                    if one is told:
                        try:
                            item = next(told)
                        except StopIteration:
                            ray.get(waiting)
                            return
                        yield ray.get(item)
                    else:
                        waiting.remove(one)
                        ray.get(one)
        except ActorDiedError as error:
            first = str(error).strip().splitlines()[0].rstrip(".")  # Ray guesses at length behind it
            raise WorkerLost(f"{self.loaded.machine}: {first}") from None
        except RayError as error:
            raise WorkerLost(reason_of(error)) from None

    def stop(self) -> None:
        """Let it end behind its present step."""
        for actor in self._actors:
            actor.stop.remote()

    def close(self) -> None:
        """End its processes."""
        import ray

        for actor in self._actors:
            ray.kill(actor)


class RayLauncher:
    """Starts workers as actors."""

    def __init__(self, options: BaseOptions, place: Place, processes: int, *, here: bool) -> None:
        """
        Args:
            place: what each process takes.
            processes: of a worker.
            here: all machines of the cluster are this one.
        """
        self._options, self._place, self._processes, self._here = options, place, processes, here

    def start(self) -> RayWorker:
        """A worker with the base loaded.

        Raises:
            WorkerLost: it could not be started, or not in time.
            SoftPromptError: it says what is wrong.
        """
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        kind = ray.remote(Worker).options(
            num_cpus=self._place.cpus, num_gpus=self._place.gpus, max_concurrency=4, max_restarts=0
        )
        actors = [kind.remote() for _ in range(self._processes)]
        try:
            loads = ray.get([actor.load.remote(self._options, os.getcwd()) for actor in actors], timeout=START_S)
            for loaded in loads:
                if isinstance(loaded, SoftPromptError):
                    raise loaded
            if len(actors) > 1:
                meeting = ray.get(actors[0].meeting.remote("127.0.0.1" if self._here else None), timeout=START_S)
                joins = [actor.join.remote(rank, len(actors), meeting) for rank, actor in enumerate(actors)]
                ray.get(joins, timeout=START_S)
            return RayWorker(actors, loads[0])
        except BaseException as error:
            for actor in actors:
                ray.kill(actor)
            if isinstance(error, GetTimeoutError):
                raise NoRoom(f"it did not begin within {START_S:g} s") from None
            if isinstance(error, RayError):
                raise WorkerLost(reason_of(error)) from None
            raise
