"""What a command leaves, for tests of the command line; `run` in conftest.py calls one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Done:
    """What a command left: its exit status and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Stdout of a command that went well, each line of it JSON, compact as promised."""
        assert self.code == 0, self.err
        rows = [json.loads(line) for line in self.out.splitlines()]
        for line, row in zip(self.out.splitlines(), rows, strict=True):
            assert line == json.dumps(row, separators=(",", ":"))
        return rows

    def refused(self, code: int = 1) -> str:
        """The one line of an error."""
        assert self.code == code, self.err
        assert self.out == ""
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert self.err.splitlines()[-1] == lines[0]
        return lines[0]


Run = Callable[..., Done]
