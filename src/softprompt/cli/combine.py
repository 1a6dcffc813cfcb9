"""`softprompt combine`: prompts of one base made into a new version, without training."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, library_options, moved_base_options
from softprompt.cli.output import emit, say, scored, with_errors
from softprompt.cli.versions import tell_taken_over

COLUMNS = ("task", "version", "operation", "num_virtual_tokens", "prompt_bytes", "metric", "value", "rows")


@library_options
@moved_base_options
def combine(
    refs: Annotated[list[str], typer.Argument(metavar="TASK", help="Two prompts or more: TASK, TASK@N or TASK@ALIAS.")],
    operation: Annotated[str, typer.Option("--by", help="average, interpolate, concatenate or ensemble.")] = "average",
    weights: Annotated[
        list[float] | None, typer.Option("--weight", help="Of a prompt, for interpolate; repeat for each, in order.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The task it becomes a version of (default: theirs).")] = None,
    like: Annotated[str | None, typer.Option(help="Take template, labels and metric from this task of the library.")] = None,
    data: Annotated[str | None, typer.Option(help="Judge it: a task file, for its test rows, or rows with answers.")] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")] = None,
    *,
    base: BaseOptions,
    where: Location,
    as_json: Json = False,
) -> None:
    """Combine prompts of one base into a new version: their mean, one behind the other, or an ensemble."""
    from softprompt.evaluation.cases import case_to_judge
    from softprompt.library.binding import check_before_loading
    from softprompt.progress import Bars
    from softprompt.prompts.combine import check_different, check_operation

    chosen: Any = operation
    check_operation(chosen, refs, weights)
    library, progress = where.open(), Bars()
    versions = [library.registry.resolve(ref) for ref in (refs if like is None else [*refs, like])]
    own = versions[: len(refs)]
    check_different(chosen, [one.digest for one in own], [one.ref for one in own])
    if task is not None:
        library.registry.check_names([task], versions[0].card.base)
    if data is not None:  # what is wrong with it is told before torch is loaded
        case_to_judge(versions[0 if like is None else -1].ref, library, data)
        check_before_loading(versions[0], base)
    with progress.loading("torch"):
        from softprompt.evaluation.combination import combine as make
    made = make(
        refs, chosen, weights=weights, task=task, like=like, data=data, library=library, base=base, tags=tags or (),
        progress=progress,
    )  # fmt: skip
    emit([made.row()] if as_json else with_errors([made.row()]), as_json, "Combined", COLUMNS)
    if not as_json:
        named = f"{made.task}@{made.version}"
        if made.value is None:
            say(f"{named}: not judged, and scores of its parents are not its own; judge it with --data TASK.yaml")
        else:
            each = [f"{ref} {scored(value, None)}" for ref, value in zip(made.parents, made.parent_values, strict=True)]
            say(f"{named}: on the same rows {', '.join(each)}")
    tell_taken_over(library.registry, library.registry.resolve(f"{made.task}@{made.version}"))
