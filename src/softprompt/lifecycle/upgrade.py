"""From one base to the next: tasks carried over, trained anew together, and promoted where they are as good as they were."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from softprompt.bases.architectures import KINDS
from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.bases.options import BaseOptions
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError, SoftPromptError, TrainingStopped
from softprompt.evaluation.findings import start_kept
from softprompt.evaluation.trials import Report, Trial, judge, result_of
from softprompt.library.binding import options_for
from softprompt.library.library import library_or_current
from softprompt.lifecycle.carry import carried
from softprompt.lifecycle.gate import card_on, keep_in_place, promote_if_as_good, refresh_suites
from softprompt.lifecycle.move import Move, Upgraded
from softprompt.lifecycle.remake import OF_THE_BASE, named_base, remake
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.progress import Progress, Silent
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Version
from softprompt.rows.sources import digest_rows
from softprompt.tasks.form import missing_start
from softprompt.tasks.load import TaskLike, load_tasks
from softprompt.tasks.task import Task
from softprompt.tasks.wording.template import literal
from softprompt.text import MASK
from softprompt.training.events import Failed, Published, Resumed, Stepped, Stopped, Trained, draw
from softprompt.training.session import Session
from softprompt.training.steps.run import Begins
from softprompt.training.sweep import Halving

if TYPE_CHECKING:
    from softprompt.library.library import Library

PRODUCTION = "production"
CHOOSING = 64
"""Validation rows that choose among the ways in which vectors are carried over."""
RUNG = 0.5
"""Share of the steps that a task takes from both of its starts."""


def upgrade(
    tasks: str | Sequence[str] | None = None,
    *,
    to: BaseLike,
    task_files: Sequence[TaskLike] = (),
    library: Library | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> list[Upgraded]:
    """Carry tasks over to another base. Each one's vectors are mapped through the tokens that both bases know, and
    train beside the task's own start until it shows which of them gets further; all are trained together by the task
    files and data of then; and each is promoted to `production` where it is not clearly worse than the version that it
    comes from, on the same test rows. Until then that version stays what the task's name means. What is done already is
    not done again: a call that was cut short goes on.

    Args:
        tasks: of the library, as TASK, TASK@N or TASK@ALIAS; by default all that mean a version of another base.
        to: the new base: where it is, how to load it, or loaded already.
        task_files: tasks in the place of those that the library keeps; needed for versions that came without, or whose rows
            were in memory.
        library: by default the one in the current home.
        progress: where to report to.
        stop: it stops once this is set; the same call goes on from there.

    Raises:
        NotFound: there is no such task or version.
        ConfigError: a task file is of a task that is not upgraded.
        BaseModelError: the new base cannot be used.
        TrainingStopped: it was stopped.
    """
    shown = progress or Silent()
    with library_or_current(library) as opened:
        opened.registry.database.check_writable()
        files = {task.name: task for task in load_tasks(task_files)} if task_files else {}
        named = [tasks] if isinstance(tasks, str) else tasks
        olds = [opened.registry.resolve(ref) for ref in (named or [entry.task for entry in opened.registry.tasks()])]
        counts = Counter(old.task for old in olds)
        if twice := sorted(name for name, count in counts.items() if count > 1):
            raise ConfigError(f"task {twice[0]!r} is named twice, and one version of it is carried over; leave one out")
        if others := sorted(set(files) - {old.task for old in olds}):
            raise ConfigError(
                f"there is a task file of {others[0]!r}, which is not upgraded; name it too, or leave the file out"
            )
        options = BaseOptions()
        architecture = architecture_of(base_of(to, options, shown))
        base = architecture.base
        moves = [move for old in olds if (move := _move(opened, old, base, named is not None)) is not None]
        open_moves = [move for move in moves if move.new is None and not move.failed]
        for move in open_moves:
            _remake(opened, move, files.get(move.old.task), base)
        _carry(opened, [move for move in open_moves if not move.failed], base, shown)
        for move in open_moves:
            _begin(move, base)
        _judge_carried(architecture, [move for move in open_moves if not move.failed], shown)
        _train(opened, architecture, [move for move in open_moves if not move.failed], shown, stop)
        for move in moves:
            if move not in open_moves and move.new is not None and not move.promoted:  # cut short between the two
                promote_if_as_good(opened, move, OfflineEngine(architecture, warn=shown.warn), shown)
        return [move.row(base.address) for move in moves]


def _move(library: Library, old: Version, base: FrozenBase, named: bool) -> Move | None:
    """How far a task is; None for one that needs none of it and was not asked for."""
    versions = library.registry.versions(old.task, deleted=False)
    if old.fingerprint in base.fingerprints:
        told = old.card.recipe.get("upgrade")
        before = next((one for one in versions if told and one.digest == told["digest"]), None)
        if not named:
            return None
        if before is None:
            move = Move(old)
            move.fail("it is of this base already")
            return move
        return _done(before, old, promoted=True, remark="was upgraded before")
    for version in reversed(versions):
        if version.fingerprint in base.fingerprints and version.card.recipe.get("upgrade", {}).get("digest") == old.digest:
            return _done(old, version, promoted=False, remark="was trained before")
    return Move(old)


def _done(old: Version, new: Version, *, promoted: bool, remark: str) -> Move:
    told = new.card.recipe["upgrade"]
    card = old.card.model_copy(
        update={"metrics": old.card.metrics | told["old"], "recipe": old.card.recipe | {"test_digest": told["test_digest"]}}
    )
    return Move(
        old, [remark], card=card, start=told["start"], recycled=told["recycled"], new=new, promoted=promoted
    )  # fmt: skip


def _remake(library: Library, move: Move, given: Task | None, base: FrozenBase) -> None:
    kind = move.old.card.task_type
    if given is None and kind == "MASKED_LM" != base.task_type and MASK in move.old.card.input:
        move.fail(
            f"`input` holds {MASK}, where a masked language model says its answer, and {base.name} is "
            f"{KINDS[base.task_type]}; give a task file with a template for it (--task-file)"
        )
        return
    left_out = [key for key in OF_THE_BASE if key != "task_type" or kind != base.task_type]
    try:
        move.task, told = remake(library, move.old, given, left_out)
        move.remarks += told
    except SoftPromptError as error:
        move.fail(error)


def _begin(move: Move, base: FrozenBase) -> None:
    """Let a task's input begin as texts of the new base do."""
    if move.task is not None and (token := missing_start(base, move.task.form)) is not None:
        move.task = move.task.variant(input=literal(token) + str(move.task.config.input))
        move.remarks.append(f"`input` begins with {token} now, as texts of this base do")


def _carry(library: Library, moves: Sequence[Move], base: FrozenBase, progress: Progress) -> None:
    """What needs the old bases, each loaded once and given up again: vectors mapped, and old versions judged anew whose test
    rows are no longer those of then."""
    groups: dict[BaseOptions, list[Move]] = {}
    for move in moves:
        try:
            groups.setdefault(options_for(move.old, BaseOptions(), named_base(library, move.old)), []).append(move)
        except SoftPromptError as error:
            move.remarks.append(f"nothing is carried over: {error}")
    for options, own in groups.items():
        try:
            old_base = base_of(None, options, progress)
        except SoftPromptError as error:
            for move in own:
                move.remarks.append(f"nothing is carried over: {error}")
            continue
        engine = OfflineEngine(architecture_of(old_base), warn=progress.warn)
        with progress.stage("carry", len(own)) as advance:
            for move in own:
                try:
                    _carry_one(library, move, engine, base, progress)
                except SoftPromptError as error:
                    move.remarks.append(f"nothing is carried over: {error}")
                advance(1, move.old.task)


def _carry_one(library: Library, move: Move, engine: OfflineEngine, base: FrozenBase, progress: Progress) -> None:
    old_base, task = engine.architecture.base, move.task
    assert task is not None
    prompt = SoftPrompt.from_bytes(library.read(move.old), digest=move.old.digest)
    prompt.check_base(old_base)
    if base.task_type == "SEQ_CLS":
        move.remarks.append("nothing is carried over to a base that answers through a head, which starts anew")
    elif prompt.card.prompt_type == "soft":
        move.carried = carried(prompt.vectors_PD, old_base, base)
        if not move.carried:
            move.remarks.append("nothing is carried over: the two bases share too few tokens")
    else:
        move.remarks.append(f"a {prompt.card.prompt_type} has no vectors that another base knows")
    known, template = base.spelling.controls, task.form.input.text
    old_start = old_base.spelling.begins_with or ""
    begins = bool(old_start) and template.startswith(old_start) and old_start not in known
    template = template.removeprefix(old_start) if begins else template
    if lost := [text for text in old_base.spelling.controls if text in template and text not in known]:
        move.remarks.append(
            f"`input` holds {lost[0]!r}, a control token of the old base, which is plain text to the new one; give a task "
            "file with a template for it (--task-file)"
        )
    move.card = card_on(task, prompt, engine)
    move.remarks += refresh_suites(library, move.old, engine, progress, task)
    if begins:  # behind what is of the old base
        move.task = task.variant(input=str(task.config.input).removeprefix(literal(old_start)))
        move.remarks.append(f"`input` no longer begins with {old_start}, as texts of the old base do")


def _judge_carried(architecture: Architecture, moves: Sequence[Move], progress: Progress) -> None:
    """Of the vectors that were carried over, those that do best on validation rows; and they judged on the test rows."""
    base, engine = architecture.base, OfflineEngine(architecture, warn=progress.warn)
    trials: list[tuple[Move, str, Trial]] = []
    for move in moves:
        task = move.task
        assert task is not None
        if not move.carried:
            continue
        try:
            task.form = task.form.within([task.form.answer(row, "a training row") for row in task.train])
            length = len(next(iter(move.carried.values())))
            rows = task.validation.part(task.draw(task.validation, CHOOSING))
            some = task.encode(base, rows, length, split="validation", unanswered=True)
            trials += [(move, name, Trial(task.form, one.to(base.dtype), some)) for name, one in move.carried.items()]
        except SoftPromptError as error:
            move.fail(error)
    trials = [one for one in trials if not one[0].failed]
    losses: dict[Move, dict[str, float]] = {}
    for move, name, report in _judged(engine, trials, "starts", progress):
        losses.setdefault(move, {})[name] = report.loss
    again = []
    for move, own_losses in losses.items():
        task = move.task
        assert task is not None
        move.start = min(own_losses, key=own_losses.__getitem__)
        move.begins = move.carried[move.start]
        test = task.encode(base, task.test, len(move.begins), split="test", unanswered=True)
        again.append((move, move.start, Trial(task.form, move.begins.to(base.dtype), test)))
    for move, _, report in _judged(engine, again, "recycled", progress):
        move.recycled = report.value


def _judged(
    engine: OfflineEngine, trials: Sequence[tuple[Move, str, Trial]], stage: str, progress: Progress
) -> Iterator[tuple[Move, str, Report]]:
    if trials:
        with progress.stage(stage, sum(len(trial.examples) for _, _, trial in trials)) as advance:
            reports = result_of(judge(engine, [trial for _, _, trial in trials]), advance)
        for (move, name, _), report in zip(trials, reports, strict=True):
            yield move, name, report


def _train(
    library: Library,
    architecture: Architecture,
    moves: Sequence[Move],
    progress: Progress,
    stop: threading.Event | None,
) -> None:
    """All in one session, whose checkpoint is named by the base: each is gated as soon as it is published."""
    if not moves:
        return
    session = Session(architecture, library=library, name=f"upgrade-{architecture.base.fingerprint[:16]}", stop=stop)
    races = {move.old.task: _enter(session, move) for move in moves}
    by_name = {move.old.task: move for move in moves}
    for move in moves:
        keep_in_place(library, move.old, "kept in place while the task is carried to another base")
    for event in draw(session.run(), progress):
        if isinstance(event, Failed):
            race = races[event.member.task.name]
            if not race.alive if event.trained else all(member.error for member in race.candidates):
                by_name[event.member.task.name].fail(event.error)
        elif isinstance(event, Published):
            move = by_name[event.member.task.name]
            move.start = event.member.recipe["upgrade"]["start"]
            move.new = library.registry.resolve(f"{move.old.task}@{event.tuned.version}")
            if (kept := start_kept(event.tuned.prompt.card, event.tuned.history)) is not None:
                move.remarks.append(kept.partition(";")[0])
            promote_if_as_good(library, move, OfflineEngine(architecture, warn=progress.warn), progress)
        elif isinstance(event, Stopped):
            raise TrainingStopped("stopped; call the same command again to go on")
        for race in races.values():
            race.heed(event)
            if isinstance(event, Resumed | Stepped | Trained):
                left = race.alive
                if left and (len(left) == 1 or isinstance(event, Trained)):
                    left[0].publishes = True


def _enter(session: Session, move: Move) -> Halving:
    """Let a task in: from its own start, and from what was carried over, where anything was. The worse of the two by
    validation stops after half of the steps: which start trains better cannot be seen before training, nor soon after. Both
    may end where they start, if no step is better there."""
    task, card = move.task, move.card or move.old.card
    assert task is not None
    told = {name: card.metrics[name] for name in ("value", "stderr", "rows") if name in card.metrics}
    starts: list[tuple[str, Begins | None]] = [(task.config.initializer, None)]
    if move.begins is not None:
        starts.append((move.start or "", Begins(move.begins, (move.old.digest,))))
    members = []
    for start, begins in starts:
        member = session.add(task, publishes=len(starts) == 1, salt=start if begins is not None else "")
        member.begins, member.keeps_start = begins, True
        member.recipe["upgrade"] = {
            "from": move.old.ref,
            "digest": move.old.digest,
            "old": told,
            "test_digest": digest_rows(task.test),
            "recycled": move.recycled,
            "start": start,
        }
        members.append(member)
    return Halving(session, members, (RUNG,))


def failures(rows: Iterable[Upgraded]) -> int:
    """How many tasks have no new version, though they need one."""
    return sum(row.new_version is None and row.reason != "it is of this base already" for row in rows)
