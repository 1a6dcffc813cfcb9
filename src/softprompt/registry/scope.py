"""A database as one tenant and one actor work on it: what every part of a registry holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.registry import tables
from softprompt.registry.database import Database
from softprompt.registry.records import now


@dataclass(frozen=True)
class Scope:
    """Whose rows are seen and changed, and who is said to have changed them."""

    database: Database
    tenant: str
    actor: str

    def record(
        self,
        connection: Connection,
        action: str,
        task: str | None,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> None:
        """Write a line of the audit in the transaction of the change itself: none is without the other."""
        who = {"tenant": self.tenant, "actor": self.actor, "at": now()}
        what = {"task": task, "action": action, "before": _state(before), "after": _state(after), "reason": reason}
        connection.execute(sa.insert(tables.audit).values(who | what))


def _state(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, separators=(",", ":"), sort_keys=True)
