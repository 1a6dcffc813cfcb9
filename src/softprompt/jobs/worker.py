"""The worker of a home: a process that trains queued jobs and ends when there are none: `python -m softprompt.jobs.worker`.

It lives apart from the server, which may be killed and started again meanwhile; it may be killed itself at any moment.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.options import COMMAND_OPTIONS, BaseOptions
from softprompt.errors import FingerprintMismatch, RegistryError, StoreError
from softprompt.jobs.lock import WorkerLock
from softprompt.jobs.queue import STALE_SECONDS, Claim, Queue, checkpoints_of
from softprompt.jobs.records import UNFINISHED, unfinished
from softprompt.jobs.uploads import Uploads
from softprompt.jobs.watch import fail
from softprompt.library.library import Library

if TYPE_CHECKING:
    from softprompt.model.architecture import Architecture

log = logging.getLogger("softprompt.jobs")

IDLE_SECONDS = 60.0
"""How long a worker waits for another job before it ends."""

LOOK_SECONDS = 0.5
AWAY_SECONDS = 5.0
"""Pauses between looks at the queue, usual and while the registry is away."""

Train = Callable[[Queue, Sequence[Claim]], None]


def work(
    library: Library, train: Train, *, idle_seconds: float = IDLE_SECONDS, stale_seconds: float = STALE_SECONDS
) -> None:
    """Do what is queued until there has been nothing for a while; at once where another worker has this home."""
    lock = WorkerLock(library.home)
    queue = Queue(library, stale_seconds=stale_seconds)
    idle_since = time.monotonic()
    # The lock may be tried for a moment by servers that want to know whether there is a worker.
    while lock.acquire(patience=1.0):
        try:
            while time.monotonic() - idle_since < idle_seconds:
                try:
                    claims = queue.claim()
                except RegistryError as error:
                    log.warning("the queue cannot be read: %s", error)
                    time.sleep(AWAY_SECONDS)
                    continue
                if claims:
                    train(queue, claims)
                    idle_since = time.monotonic()
                else:
                    time.sleep(min(LOOK_SECONDS, idle_seconds))
            _clear(library)
        finally:
            lock.release()
        # A server that saw the lock held has started no worker; its job was queued before that.
        try:
            if not unfinished(library):
                return
        except RegistryError:
            return
        idle_since = time.monotonic()


def _clear(library: Library) -> None:
    """Delete checkpoints that no job will take up any more (of jobs that were cancelled, or trained in another bank), and
    what is left of uploads whose server was killed."""
    try:
        if not unfinished(library, UNFINISHED):
            for kind in ("*.checkpoint", "[!.]*.partial"):  # a tenant called `jobs` has its histories there
                for left in checkpoints_of(library).glob(kind):
                    left.unlink(missing_ok=True)
        Uploads(library).store.sweep()
    except (RegistryError, StoreError, OSError) as error:
        log.warning("old checkpoints or uploads stay: %s", error)


def trainer(options: BaseOptions, every: float) -> Train:
    """Training on bases that stay loaded while jobs ask for the same one, with `every` so many seconds a checkpoint."""
    loaded: dict[str, Architecture] = {}

    def train(queue: Queue, claims: Sequence[Claim]) -> None:
        from softprompt.bases.base import FrozenBase
        from softprompt.jobs.bank import run_jobs
        from softprompt.model.architecture import architecture_of

        source = claims[0].base
        asked = {claim.request.get("fingerprint") for claim in claims} - {None}
        try:
            if source not in loaded or not asked <= loaded[source].base.fingerprints:  # another may lie there by now
                loaded.clear()
                loaded[source] = architecture_of(FrozenBase.load(options, source=source))
        except Exception as error:
            for claim in claims:
                fail(queue, claim, error)
            return
        base = loaded[source].base
        others = [claim for claim in claims if claim.request.get("fingerprint") not in {None, *base.fingerprints}]
        for claim in others:
            fail(queue, claim, FingerprintMismatch(
                f"the job is for the base {base.name} with fingerprint {claim.request['fingerprint']}, and by now the base "
                f"with fingerprint {base.fingerprint} lies in its place; start the server again on the one that is meant"
            ))  # fmt: skip
        if mine := [claim for claim in claims if claim not in others]:
            run_jobs(queue, mine, loaded[source], every=every)

    return train


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the worker of a home. The registry and the store come from the environment, as URLs may hold passwords."""
    parser = argparse.ArgumentParser(prog="python -m softprompt.jobs.worker", description=main.__doc__)
    parser.add_argument("--home", type=Path, help="folder of the library (env SOFTPROMPT_HOME)")
    parser.add_argument("--registry", help="URL of the registry (env SOFTPROMPT_REGISTRY)")
    parser.add_argument("--store", help="URL of the blob store (env SOFTPROMPT_STORE)")
    for name, option in COMMAND_OPTIONS.items():
        default = getattr(BaseOptions, name)
        switch: dict[str, Any] = {"action": "store_true"} if default is False else {"default": default}
        parser.add_argument(option.flag, dest=name, help=option.help, **switch)
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS, help="end after so long without a job")
    parser.add_argument("--checkpoint-seconds", type=float, default=30.0, help="between checkpoints")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with Library.open(given.home, registry=given.registry, store=given.store) as library:
        options = BaseOptions(**{name: getattr(given, name) for name in COMMAND_OPTIONS})
        work(library, trainer(options, given.checkpoint_seconds), idle_seconds=given.idle_seconds)


if __name__ == "__main__":
    main()
