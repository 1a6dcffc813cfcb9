"""What people should know of a run before it trains: its recipe in words, and what may go otherwise than they think."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from softprompt.bases.base import FrozenBase
from softprompt.evaluation.metrics import measure
from softprompt.prompts.card import LONG, SHORT, is_best
from softprompt.tasks.answers.kinds import number_text
from softprompt.tasks.answers.labels import excerpt_of
from softprompt.tasks.config.idle import idle_keys
from softprompt.tasks.config.schedule import rate_at, told_few
from softprompt.tasks.form import Form, missing_start
from softprompt.text import plural
from softprompt.training.objectives.label_sets import told_weights
from softprompt.training.objectives.teacher import instruction_before
from softprompt.training.steps.run import Run


def told_recipe(run: Run) -> str:
    """The recipe of a run in words, what was chosen for it among them."""
    config, rows = run.config, min(run.config.per_device_train_batch_size, len(run.train))
    judged, held = plural(len(run.validation), "validation row"), run.task.held_out
    if run.folds:
        judged = f"{len(run.folds)} folds"
    elif len(run.validation) < held:
        judged = f"{len(run.validation)} of {held} validation rows (max_eval_samples)"
    return (
        f"{plural(run.total, 'step')} of {plural(rows, 'row')}, {config.objective_name}, rate {config.learning_rate:g}, "
        f"start {config.initializer}; the best prompt by {judged} is kept"
    )


def remarks_on(base: FrozenBase, run: Run) -> Iterator[tuple[str, bool]]:
    """What people should know of a run before it trains, and whether it is a warning."""
    task, length = run.task, run.config.num_virtual_tokens
    if length < SHORT and run.config.prompt_type == "soft":  # a token of a prefix has many times the numbers
        yield f"{task.name}: a prompt of {plural(length, 'virtual token')} has little capacity; 20 to 100 is usual", True
    if length > LONG:
        yield f"{task.name}: a prompt of {plural(length, 'virtual token')} can drown the input; 20 to 100 is usual", True
    taught = run.config.objective_name == "distillation"  # by a text prompt, which is no rival
    if not taught and (told := told_few(len(run.train))) is not None:
        yield f"{task.name}: {told}", False
    if taught and (instructed := len(base.encode([instruction_before(task.form)])[0])) <= length:
        yield f"{task.name}: {plural(instructed, 'token')} of instruction, {length} of the prompt: nothing is saved", False
    longest, output = max(len(ids) for ids in run.train.inputs), task.form.output_length(base)
    limit = ", without limit" if base.context is None else f" of {base.context}"
    yield (
        f"{task.name}: {plural(len(run.train), 'training row')}; context: {length} virtual + up to {longest} input "
        f"+ {output} output = {length + longest + output} tokens{limit}; in {str(base.dtype).removeprefix('torch.')}",
        False,
    )
    yield f"{task.name}: {told_recipe(run)}", False
    if tokens := unwanted_tokens(run):
        config, own = run.config, f" and as many for each of {len(run.folds)} folds" if run.folds else ""
        yield (
            f"{task.name}: the prompt writes answers to {plural(config.unwanted_rows, 'training row')} every "
            f"{plural(config.unwanted_every, 'step')}, to look for unwanted ones: up to {tokens} tokens generated "
            f"in all{own}",
            False,
        )
    if run.class_weights:
        yield f"{task.name}: class weights: {told_weights(task.form.labels or (), run.class_weights)}", False
    if task.form.answer_range is not None:
        low, high = map(number_text, task.form.answer_range)
        yield (
            f"{task.name}: answers lie between {low} and {high}; a generated number outside counts as the nearer of them",
            False,
        )
    if (end := task.form.rules(base).get("label_end")) is not None:
        yield f"{task.name}: the tokens of a label begin another's, so every label ends with {end}; rename one", False
    for idle in idle_keys(task.config):
        yield f"{task.name}: {idle}", True
    warm, schedule = run.config.warmup_steps or 0, run.config.lr_scheduler_type
    if warm > run.total and schedule != "constant":
        yield (
            f"{task.name}: warmup_steps, {warm}, are more than the run's {plural(run.total, 'step')}, so that the rate "
            f"never gets beyond {rate_at(run.config, run.total - 1, run.total):.3g}; lower warmup_steps",
            True,
        )
    if (left_out := _start_left_out(base, run)) is not None:
        yield f"{task.name}: {left_out}", True
    if run.config.initializer == "RANDOM":
        yield f"{task.name}: random numbers lie near no token; LABELS or a text is a better start on most bases", False
    if (token := missing_start(base, task.form)) is not None:
        yield (
            f"{task.name}: the tokenizer of {base.name} would begin texts with {token}, and nothing is put before inputs; "
            f"begin `input` with {token} to have it: a base that was pretrained with it may learn far less without",
            False,
        )
    if task.form.front_varies:
        rows, length = run.batch(0), run.config.num_virtual_tokens
        apart = run.tokens_of(rows)
        together = length + sum(len(row.front) + row.length for row in rows)
        yield (
            f"{task.name}: columns stand before {{soft_prompt}}, so rows share nothing of the prompt: it is run again for "
            f"each of them, {apart} tokens a step, and {together} if it stood before the columns; so it is in serving",
            True,
        )
    if task.form.target_field in task.form.input.fields:
        yield f"{task.name}: the input holds {task.form.target_field!r}, which is the answer; take it out of `input`", True
    if unanswered := sum(map(task.form.lacks_answer, task.test)):
        yield (
            f"{task.name}: {unanswered} of {plural(len(task.test), 'test row')} have no answer: there what the instructed "
            "base says counts as right",
            True,
        )
    for remark in task.remarks:
        yield f"{task.name}: {remark}", True
    splits = (run.train, run.validation)[: 1 if run.folds else 2]
    total = sum(map(len, splits))
    if cut := sum(split.truncated for split in splits):
        first = next(split.first_cut for split in splits if split.first_cut)
        yield f"{task.name}: {cut} of {total} inputs were cut to fit the context, the first of them {first}", True
    if cut := sum(split.answers_cut for split in splits):
        longest = max(split.longest_answer for split in splits)
        first = next(split.first_answer_cut for split in splits if split.first_answer_cut)
        yield (
            f"{task.name}: {cut} of {total} answers are cut to max_new_tokens ({task.form.max_new_tokens}), so that no "
            f"prediction can equal them, the first of them {first}; the longest takes {longest}: raise max_new_tokens",
            True,
        )
    elif (told := _unreachable(base, run)) is not None:
        yield f"{task.name}: {told}", True
    if (network := run.rule.network) is not None:  # not kept, so no row or card counts it
        shape = (run.config.num_virtual_tokens, run.start_PD.shape[1])
        kept = shape[0] * shape[1]
        trained = network.numbers(*shape) + kept * network.trains_vectors
        yield f"{task.name}: {trained} numbers are trained, and the {kept} of the vectors that they make are kept", False


def _start_left_out(base: FrozenBase, run: Run) -> str | None:
    """That a prompt is too short for all that it is to start from."""
    length, start = run.config.num_virtual_tokens, run.config.initializer
    if start == "TEXT":
        asked, what = len(base.encode([run.config.prompt_tuning_init_text or ""])[0]), "tokens of prompt_tuning_init_text"
    elif start == "LABELS":
        asked, what = len(run.task.form.labels or ()), "labels"
    else:
        return None
    if asked <= length:
        return None
    return f"{asked} {what} are more than num_virtual_tokens, {length}: the prompt starts from the first {length} alone"


def unwanted_tokens(run: Run) -> int:
    """What a run generates at most to look for unwanted answers."""
    return run.own_answers.most_tokens(run.total) if run.config.unwanted_patterns else 0


def _unreachable(base: FrozenBase, run: Run) -> str | None:
    """That answers of the validation hold what the base cannot write, so that no prediction can equal them."""
    form, rows = run.task.form, run.validation
    if form.labels is not None:
        return None
    written = [base.decode(_until_end(base, ids)).strip() for ids in rows.targets]
    wrong = [
        (place, answer, text)
        for place, (answer, text) in enumerate(zip(rows.answers, written, strict=True))
        if not _equal(form, text, answer)
    ]
    if not wrong:
        return None
    place, answer, text = wrong[0]
    return (
        f"{base.name} cannot write {len(wrong)} of {len(rows)} validation answers, which no prediction can equal: "
        f"{excerpt_of(answer)} ({run.task.validation.where(place)}) would come as {excerpt_of(text)}; word them otherwise"
    )


def _equal(form: Form, text: str, answer: str) -> bool:
    """Whether a generated text is as good as the right answer."""
    metric = "mae" if form.is_number else form.metric
    return is_best(metric, measure(metric, *form.judged([text], [answer])))


def _until_end(base: FrozenBase, ids: Sequence[int]) -> list[int]:
    return list(itertools.takewhile(lambda token: token not in base.end_ids, ids))
