"""Who works at the library: calls of the command, some killed on the way and made again, and what each acknowledged."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from softprompt.library.library import Library
from softprompt.registry import tables

Say = Callable[[str], None]
Rows = list[dict[str, Any]]


@dataclass
class Ledger:
    """Writes that were acknowledged, by exit status 0 or HTTP 200."""

    versions: dict[tuple[str, str, int], str] = field(default_factory=dict)
    moves: dict[tuple[str, str], list[tuple[str, str, int]]] = field(default_factory=dict)
    """Of each task, in order: what was done, the alias, and the version it points to since."""
    said: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """Of each task the names of what clients said."""
    outcomes: set[tuple[str, str, str]] = field(default_factory=set)
    """Tenant, version and suite."""

    def published(self, library: Library, ref: str) -> None:
        """A version is there."""
        version = library.registry.resolve(ref)
        self.versions[library.tenant, version.task, version.number] = version.digest

    def moved(self, tenant: str, action: str, task: str, number: int, alias: str = "production") -> None:
        """An alias has moved."""
        self.moves.setdefault((tenant, task), []).append((action, alias, number))

    def forget(self, tenant: str) -> None:
        """The tenant has left."""
        for known in (self.versions, self.moves, self.said):
            for key in [key for key in known if key[0] == tenant]:
                del known[key]

    def check(self, library: Library) -> None:
        """All of it is there."""
        for (tenant, task, number), digest in self.versions.items():
            mine = library.for_tenant(tenant)
            assert mine.registry.resolve(f"{task}@{number}").digest == digest
            assert mine.read(f"{task}@{number}")
        for (tenant, task), moves in self.moves.items():
            lines = library.for_tenant(tenant).registry.audit(task)
            done = (
                (line.action, line.after["alias"], line.after["version"]) for line in lines if "alias" in (line.after or {})
            )
            assert all(move in done for move in moves), (tenant, task, moves)  # in their order, as `done` is read once
        for (tenant, task), names in self.said.items():
            assert names <= names_said(library, tenant, task)
        for tenant, ref, suite in self.outcomes:
            assert library.for_tenant(tenant).registry.outcomes.one(ref, suite).rows

    def counts(self) -> str:
        """How much it is."""
        moves, said = sum(map(len, self.moves.values())), sum(map(len, self.said.values()))
        return (
            f"{len(self.versions)} versions, {moves} moves, {said} words of clients, {len(self.outcomes)} outcomes of suites"
        )


def names_said(library: Library, tenant: str, task: str) -> set[str]:
    """What clients said of a task, by name."""
    statement = sa.select(tables.feedback.c.name).join(tables.tasks)
    this = sa.and_(tables.tasks.c.tenant == tenant, tables.tasks.c.name == task)
    with library.registry.database.read() as connection:
        return set(connection.execute(statement.where(this)).scalars())


class Desk:
    """The command line, in a home of its own."""

    def __init__(self, home: Path, place: Sequence[str], draw: random.Random, say: Say) -> None:
        self.home, self.place, self._draw, self._say = home, tuple(place), draw, say
        self.kills = 0

    def run(self, tenant: str | None, *arguments: str | Path) -> Rows:
        """The rows of a call that goes well."""
        return _rows(self._start(tenant, *arguments))

    def refused(self, tenant: str, *arguments: str | Path) -> str:
        """What a call that is refused says: text, and no traceback."""
        process = self._start(tenant, *arguments)
        out, err = process.communicate()
        assert (process.returncode, out) == (1, ""), err
        assert "Traceback" not in err
        return err.splitlines()[-1]

    def killed(
        self,
        tenant: str | None,
        *arguments: str | Path,
        at: Sequence[str] = (),
        times: int = 1,
        done: Callable[[], bool] | None = None,
    ) -> Rows:
        """The same call, killed so often, and then made again until it ends. It is killed soon after a line of its progress
        begins with one of `at`, drawn anew each time; without such lines soon after its start. What has ended by then is
        not made again, nor what is `done`, though nobody was told."""
        shown = " ".join(Path(str(one)).name for one in arguments)
        for _ in range(times):
            stage, pause = self._draw.choice(at) if at else None, self._draw.uniform(*((0, 0.6) if at else (0.4, 1.4)))
            process = self._start(tenant, *arguments)
            assert process.stderr is not None
            if stage is not None and not any(line.startswith(stage) for line in process.stderr):
                return _rows(process)
            time.sleep(pause)
            process.kill()
            if process.wait() >= 0:
                self._say(f"  {shown!r} had ended before it was killed")
                return _rows(process)
            process.communicate()
            self.kills += 1
            self._say(f"  kill -9 of {shown!r}, {pause:.2f} s after {stage or 'its start'}")
            if done is not None and done():
                self._say("  it was done")
                return []
        return self.run(tenant, *arguments)

    def _start(self, tenant: str | None, *arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "softprompt.cli", "--home", self.home, *self.place]
        command += ["--tenant", tenant] if tenant is not None else []
        command += [*arguments, "--json"]
        return subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def _rows(process: subprocess.Popen[str]) -> Rows:
    out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    return [json.loads(line) for line in out.splitlines()]
