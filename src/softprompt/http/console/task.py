"""A task: its versions, curves and report card, what changed between two versions, and its aliases, moved here."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import yaml
from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from softprompt.errors import NameRefused, NotFound, PromotionRefused
from softprompt.evaluation.suites.report import report
from softprompt.http.console.pages import Admin, OwnLibrary, Page, Reader, go, problem_of, render
from softprompt.http.console.session import HOME
from softprompt.library.library import Library
from softprompt.names import Ref, check_task
from softprompt.prompts.card import REFERENCE
from softprompt.registry.gate import weigh, weigh_suites
from softprompt.registry.records import Origin, Version

router = APIRouter(prefix=HOME, route_class=Page)

AUDIT_ROWS = 20
EXAMPLES = 20
"""Changed answers of a suite that are shown."""


@router.get("/tasks/{task}")
def show(
    request: Request, library: OwnLibrary, _: Reader, task: str, version: int | None = None, against: int | None = None
) -> Response:
    """One version of a task, beside another where one is named, and all that there are."""
    registry = library.registry
    versions = registry.versions(check_name(task))
    aliases = registry.aliases.of(task)
    shown = _chosen(library, task, version)
    other = None
    if against and shown is not None and against != shown.number:  # 0 is none
        other = registry.resolve(f"{task}@{against}", deleted=True)
    beside = other.ref if other is not None and not other.deleted and shown is not None and not shown.deleted else None
    card = report(shown.ref, beside, library=library, examples=EXAMPLES) if shown and not shown.deleted else None
    return render(
        request, "task.html", task=task, versions=versions[::-1], aliases=aliases, shown=shown, other=other, card=card,
        history=list(history(library, shown)) if shown else [], origin=_origin(library, shown), other_history=list(
            history(library, other)) if other else [], changes=changes(library, other, shown) if other and shown else None,
        audit=registry.audit(task, AUDIT_ROWS)[::-1], recipe=_recipe(shown), steps=_steps,
    )  # fmt: skip


@router.get("/tasks/{task}/promote")
def ask(request: Request, library: OwnLibrary, _: Admin, task: str, version: int, alias: str = "production") -> Response:
    """What a promotion would do, to be confirmed."""
    return _confirm(request, library, task, version, alias.strip() or "production")


@router.post("/tasks/{task}/promote")
def promote(
    request: Request,
    library: OwnLibrary,
    _: Admin,
    task: str,
    version: Annotated[int, Form()],
    alias: Annotated[str, Form()] = "production",
    reason: Annotated[str, Form()] = "",
    force: Annotated[bool, Form()] = False,
) -> Response:
    """Point an alias at a version; what the gate refuses is shown, and may be forced with a reason."""
    try:
        library.promote(_ref(task, version), alias, force=force, reason=reason.strip() or None)
    except PromotionRefused as error:
        told = problem_of(error)
        return _confirm(request, library, task, version, alias, refusal=told, reason=reason, status=409)
    return go("tasks", task, version=version)


@router.get("/tasks/{task}/rollback")
def ask_back(request: Request, library: OwnLibrary, _: Admin, task: str, alias: str = "production") -> Response:
    """Where a rollback would lead, to be confirmed."""
    target = library.registry.aliases.rollback_target(check_name(task), alias)
    here = library.registry.aliases.of(task).get(alias)
    return render(request, "rollback.html", task=task, alias=alias, target=target, here=here)


@router.post("/tasks/{task}/rollback")
def roll_back(
    library: OwnLibrary,
    _: Admin,
    task: str,
    alias: Annotated[str, Form()] = "production",
    reason: Annotated[str, Form()] = "",
) -> Response:
    """Put an alias back to what it pointed to before."""
    move = library.rollback(check_name(task), alias, reason=reason.strip() or None)
    return go("tasks", task, version=move.after)


def check_name(task: str) -> str:
    """The name of a task as it is. Raises `NotFound` for what can be none."""
    try:
        return check_task(task)
    except NameRefused:
        raise NotFound(f"there is no task {task!r}; the library lists those there are") from None


def history(library: Library, version: Version) -> Iterator[Mapping[str, float]]:
    """The validations of the training that made a version, as far as they are in this home."""
    try:
        text = (library.histories / f"{version.ref}.jsonl").read_text(encoding="utf-8")
        yield from map(json.loads, text.splitlines())
    except (OSError, ValueError):  # made elsewhere, imported, or cleared away
        return


def changes(library: Library, before: Version, after: Version) -> dict[str, Any]:
    """What is different between two versions: fields of their cards, and lines of the task files that made them."""
    olds, news = _fields(before), _fields(after)
    rows = [
        (name, olds.get(name), news.get(name)) for name in dict.fromkeys([*olds, *news]) if olds.get(name) != news.get(name)
    ]
    old, new = (_origin(library, one) for one in (before, after))
    lines: list[str] = []
    if old is not None and new is not None:
        texts = [_text(one).splitlines() for one in (old, new)]
        lines = list(difflib.unified_diff(texts[0], texts[1], before.ref, after.ref, lineterm="", n=2))
    return {"fields": rows, "lines": lines, "verdict": weigh(before.card, after.card).words}


def _fields(version: Version) -> dict[str, Any]:
    """What a card says, flat."""
    card = version.card.model_dump(mode="json")
    recipe = {f"recipe.{name}": value for name, value in card.pop("recipe").items() if name != REFERENCE}
    metrics = {f"metrics.{name}": value for name, value in card.pop("metrics").items()}
    return {**card, **metrics, **recipe, "base": version.base, "tags": list(version.tags)}


def _recipe(version: Version | None) -> dict[str, Any]:
    if version is None:
        return {}
    return {name: value for name, value in version.card.recipe.items() if name != REFERENCE}


def _steps(rows: list[Mapping[str, float]], name: str) -> list[tuple[float, float | None]]:
    """One column of a history over its steps."""
    return [(row["step"], row.get(name)) for row in rows]


def _chosen(library: Library, task: str, number: int | None) -> Version | None:
    """The version that is asked for, else what the task's name means; None where all are deleted."""
    if number is not None:
        return library.registry.resolve(_ref(task, number), deleted=True)
    try:
        return library.registry.resolve(task)
    except NotFound:
        return None


def _origin(library: Library, version: Version | None) -> Origin | None:
    return None if version is None else library.registry.origin(version.ref)


def _text(origin: Origin) -> str:
    text: str = yaml.safe_dump(origin.task_file, sort_keys=False, allow_unicode=True)
    return text


def _ref(task: str, version: int) -> str:
    return str(Ref(check_name(task), number=version))


def _confirm(
    request: Request,
    library: Library,
    task: str,
    number: int,
    alias: str,
    *,
    refusal: str | None = None,
    reason: str = "",
    status: int = 200,
) -> Response:
    registry = library.registry
    version = registry.resolve(_ref(task, number))
    before = registry.aliases.of(task).get(alias)
    found = None
    if before is not None and before != number:
        old = registry.resolve(_ref(task, before), deleted=True)
        asked = registry.outcomes.of(old.ref) if not old.deleted else []
        found = (
            weigh_suites(asked, version.ref, registry.outcomes.of(version.ref)) if asked else weigh(old.card, version.card)
        )
    return render(
        request, "promote.html", status=status, task=task, version=version, alias=alias, before=before, comparison=found,
        refusal=refusal, reason=reason,
    )  # fmt: skip
