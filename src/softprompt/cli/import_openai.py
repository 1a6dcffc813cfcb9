"""`softprompt import-openai`: what would be learnt from a training file of OpenAI's, what not, and what it costs here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.bases.options import DEFAULT_BASE, BaseOptions
from softprompt.cli.options import Changes, Json, named_base_options, read_changes
from softprompt.cli.output import emit, say, warn

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.tasks.task import Task

SHOWN = 20
"""Lines that people are told of; all of them are in the JSON."""


@named_base_options
def import_openai(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A training file: JSON Lines with messages, or preferences.")],
    base: BaseOptions,
    validation: Annotated[Path | None, typer.Option(help="A file of the same kind, to choose the prompt by.")] = None,
    name: Annotated[str | None, typer.Option("--task", help="Name of the task; by default the file's.")] = None,
    output: Annotated[Path | None, typer.Option(help="A task file to write; its rows are put beside it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a task file that is there.")] = False,
    changes: Changes = None,
    as_json: Json = False,
) -> None:
    """Tell what would be learnt from a training file of OpenAI's, line by line; with --base how long it takes."""
    import shlex

    from softprompt.jobs.training_file import check_free, plan_file, read_training_file, steps_of, task_of, write_task
    from softprompt.names import check_new_task
    from softprompt.progress import Bars
    from softprompt.tasks.draft.draft import name_of
    from softprompt.tasks.wording.chat import frame_of

    if output is not None and not force:
        check_free(output)
    found = read_training_file(file)
    own = read_training_file(validation) if validation is not None else None
    task_name = check_new_task(name if name is not None else name_of(file))
    settings, loaded, frame = read_changes(changes), None, None
    if base.source is not None:
        loaded = _load(base)
        frame = frame_of(loaded)
    plan = plan_file(
        found,
        task_name,
        base.source or DEFAULT_BASE,
        validation=own,
        settings=settings,
        frame=frame,
        context=loaded.context if loaded is not None else None,
    )
    task = task_of(plan, found, base.source or DEFAULT_BASE, own)
    row = found.row() | {"task": task_name, "input": plan.config["input"], "target": plan.config["target"]}
    row["labels"] = plan.config.get("labels")
    row["train_rows"], row["test_rows"] = len(task.train), len(task.test)
    row["steps"] = steps_of(task)
    row["num_virtual_tokens"] = task.config.num_virtual_tokens
    if loaded is not None:
        row |= _costs(task, loaded, found.learnt.lines)
    elif found.learnt.group is not None:
        warn("no base is named, so its chat template is not known and messages are joined by newlines; name it by --base")
    for note in (*plan.notes, *task.remarks):
        Bars().note(note)
    told = [{"line": line, "reason": reason} for line, reason in found.refused.items()]
    told += [{"file": validation.name, **one} for one in _refused(own)] if validation is not None else []
    if as_json:
        emit([*told, row], True, "")
    else:
        _tell(told, row)
    if output is not None:
        written = write_task(plan, output, found, base.source, own)
        typer.echo(f"written: {', '.join(map(str, written))}; next: softprompt train {shlex.quote(str(output))}", err=True)


def _refused(own: Any) -> list[dict[str, Any]]:
    return [{"line": line, "reason": reason} for line, reason in own.refused.items()] if own is not None else []


def _load(options: BaseOptions) -> FrozenBase:
    from softprompt.bases.base import FrozenBase
    from softprompt.progress import Bars, loading

    with loading(Bars(), options.shown):
        return FrozenBase.load(options)


def _costs(task: Task, base: FrozenBase, lines: list[int]) -> dict[str, Any]:
    """What training takes on a base, by the plan's measured step, and which lines do not fit."""
    from softprompt.progress import Bars
    from softprompt.training.plan import plan_tasks

    (planned,) = plan_tasks([task], base, None, Bars())
    names = ("base", "dtype", "device", "tokens_per_step", "step_seconds", "seconds", "peak_mb")
    rows = task.rows_of("memory:train")
    cut = task.form.encode_inputs(base, rows, task.config.num_virtual_tokens).cut
    examples = task.encode(base, rows, task.config.num_virtual_tokens, split="training")
    return {
        **{name: planned[name] for name in names},
        "vector_bytes": task.config.num_virtual_tokens * base.width * 4,
        "cut_lines": sorted({lines[place] for place in cut}),
        "answers_cut": examples.answers_cut,
    }


def _tell(told: list[dict[str, Any]], row: dict[str, Any]) -> None:
    from softprompt.cli.train import duration
    from softprompt.text import plural

    if told:
        emit(told[:SHOWN], False, f"Not learnt: {plural(len(told), 'line')}")
        if len(told) > SHOWN:
            say(f"and {len(told) - SHOWN} more; --json has all of them")
    shown = {key: value for key, value in row.items() if value not in (None, [], {}, 0)}
    shown["not_read"] = ", ".join(f"{key} ({count})" for key, count in row["not_read"].items())
    if "seconds" in row:
        shown["seconds"], shown["vector_bytes"] = duration(row["seconds"]), f"{row['vector_bytes']:,}"
        shown["cut_lines"] = ", ".join(map(str, row["cut_lines"][:SHOWN]))
    shown["labels"] = ", ".join(row["labels"] or ())
    emit([{key: value for key, value in shown.items() if value != ""}], False, f"What is learnt from {row['file']}")
