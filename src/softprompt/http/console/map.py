"""The map: how like each other the library's soft prompts are, the same projection as `softprompt inspect --plot` makes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from softprompt.errors import NameRefused
from softprompt.http.console.library import pattern
from softprompt.http.console.pages import OwnLibrary, Page, Reader, Said, problem_of, render, sentence
from softprompt.http.console.session import HOME
from softprompt.registry.listing import Filters

if TYPE_CHECKING:
    from softprompt.evaluation.inside.likeness import Drawn

router = APIRouter(prefix=HOME, route_class=Page)

MOST = 60
"""Tasks on one map: each pair of their prompts is compared."""


@router.get("/map")
def show(request: Request, library: OwnLibrary, _: Reader, q: str = "") -> Response:
    """The prompts that the names of tasks mean, a map for each base."""
    from softprompt.evaluation.inside.likeness import read_prompts

    problem, names, told = None, list[str](), Said()
    try:
        names = [entry.task for entry in library.registry.tasks(Filters(task=pattern(q)))]
    except NameRefused as error:
        problem = problem_of(error)
    groups: dict[str, list[Drawn]] = defaultdict(list)
    for prompt in read_prompts(library, None, told, tasks=names[:MOST]):
        groups[prompt.version.fingerprint].append(prompt)
    maps = [_map(group) for group in groups.values() if len(group) > 1]
    alone = [own.version for group in groups.values() if len(group) == 1 for own in group]
    return render(
        request, "map.html", q=q, problem=problem, maps=maps, alone=alone, notes=[sentence(one) for one in told.said],
        total=len(names), most=MOST,
    )  # fmt: skip


def _map(group: Sequence[Drawn]) -> dict[str, Any]:
    """Where the prompts of a base lie, and which other one each is most like."""
    from softprompt.evaluation.inside.likeness import compared, positions

    points_N2, shares = positions([prompt.directions_D for prompt in group])
    rows = []
    for own, (x, y) in zip(group, points_N2.tolist(), strict=True):
        pairs = [(*compared(own, other), other.version) for other in group if other is not own]
        cosine, per_token, nearest = max(pairs, key=lambda pair: pair[1])
        rows.append(
            {
                "version": own.version,
                "x": x,
                "y": y,
                "nearest": nearest,
                "per_token": per_token,
                "cosine": cosine,
                "name": own.version.ref,
            }
        )
    return {"base": group[0].version.base, "rows": rows, "shares": shares}
