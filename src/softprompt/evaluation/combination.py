"""Versions of the library combined into a new one, without training, and judged on rows where there are any."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.bases.options import BaseOptions
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError, FingerprintMismatch
from softprompt.evaluation.cases import Case, Rows, case_to_judge
from softprompt.evaluation.trials import Report, Trial, judge, result_of
from softprompt.library.library import library_or_current
from softprompt.model.architecture import architecture_of
from softprompt.names import check_new_task, check_tags
from softprompt.progress import Progress, Silent
from softprompt.prompts.card import Card
from softprompt.prompts.combine import Operation, check_different, check_operation, combine_vectors, mean_of, shares
from softprompt.prompts.prompt import Classifier, SoftPrompt
from softprompt.registry.records import Origin, Record, Version
from softprompt.rows.openai_files import MESSAGES
from softprompt.rows.sources import digest_rows
from softprompt.rows.values import short
from softprompt.tasks.answers.kinds import OF_NUMBERS
from softprompt.tasks.form import ANSWERS, HOW_ASKED, Form, form_fields

if TYPE_CHECKING:
    from softprompt.library.library import Library

_OF_BASE = (
    "revision", "adapter", "trust_remote_code", "quantization", "batch_invariant", "dtype",
    ANSWERS, "left_out", "frame", "embedding_scale", "pooling",
)  # fmt: skip
"""What a recipe says of the base and of how text becomes tokens. The rest is of the training of one prompt, and so not of
one that is combined from it."""

_ASKED = ("input", "target", "labels", "metric", "problem_type", "values", "output_schema", "converses")
"""Fields of forms that prompts share which are combined without saying how the new one is asked."""


@dataclass(frozen=True)
class Combined(Record):
    """A version that was combined from others."""

    task: str
    version: int
    digest: str
    operation: str
    """`average`, `interpolate`, `concatenate` or `ensemble`."""
    parents: tuple[str, ...]
    """The versions it was made from."""
    num_virtual_tokens: int
    """Of all members, for an ensemble."""
    prompt_bytes: int
    metric: str
    value: float | None
    """On the rows that were given; None where none were, for nothing is known of it then."""
    stderr: float | None
    rows: int | None
    parent_values: tuple[float, ...] = field(default=())
    """Of its parents on the same rows."""
    report: Report | None = field(default=None, repr=False, compare=False)
    """All that came of judging it."""

    def row(self) -> dict[str, Any]:
        """Its fields as a row, without the report, of which there is how many generated numbers are none or out of range."""
        row = {name: value for name, value in super().row().items() if name != "report"}
        if self.report is not None and self.metric in OF_NUMBERS:
            row |= {"unparsable": self.report.unparsable, "out_of_range": self.report.outside}
        return row


def combine(
    prompts: Sequence[str],
    operation: Operation = "average",
    *,
    weights: Sequence[float] | None = None,
    task: str | None = None,
    like: str | None = None,
    data: Rows | None = None,
    library: Library | None = None,
    base: BaseLike = None,
    tags: Iterable[str] = (),
    progress: Progress | None = None,
) -> Combined:
    """Combine prompts of one base into a new version of a task.

    Nothing is trained. Scores of the prompts are not the new one's, so without `data` it has none.

    Args:
        prompts: two or more of the library: TASK, TASK@N or TASK@ALIAS.
        operation: `average`: the mean of their vectors; `interpolate`: their mean by `weights`; `concatenate`: one behind
            the other; `ensemble`: each stands alone before the input, and the answer is the mean of their distributions over
            the labels. Thresholds of sets of labels become their mean, as the vectors do.
        weights: for `interpolate`, one for each, 0 or more; they count as shares of their sum.
        task: the task it becomes a version of; by default theirs, where they have one.
        like: a version of the library whose template, labels and metric it takes over; by default theirs, which must be one.
        data: what it and its parents are judged on: a task file (.yaml), for its test rows; or rows with answers.
        library: by default the one in the current home.
        base: to judge on: a base that is loaded already, or how to load one; by default as the versions name it.
        tags: of the new version.

    Raises:
        ConfigError: the operation cannot be done with these prompts, one of them is named twice, or it is not said what the
            new one is for.
        NotFound: there is no such version.
        FingerprintMismatch: they are of different bases.
        DataError, BaseModelError: the rows are wrong, or the base to judge on cannot be had.
        LibraryError: a name is refused, or the library fails.
    """
    if isinstance(prompts, str):
        raise ConfigError(f"prompts is one string, {prompts!r}; give a list of two or more")
    check_operation(operation, prompts, weights)
    shown = progress or Silent()
    with library_or_current(library) as opened:
        versions = [opened.registry.resolve(ref) for ref in prompts]
        name = _task_of(versions, task)
        opened.registry.check_names([name], versions[0].card.base)
        checked = check_tags(tags)
        parents = [SoftPrompt.from_bytes(opened.read(one), digest=one.digest) for one in versions]
        first = opened.registry.resolve(like) if like is not None else versions[0]
        _check_alike(versions, parents, first, operation, given=like is not None)
        check_different(operation, [one.digest for one in versions], [one.ref for one in versions])
        made = _make(versions, parents, first, name, operation, weights)
        reports: list[Report] = []
        if data is not None:
            made, reports = _judged(opened, made, versions, first, parents, data, base, shown)
        origins = [_wishes_of(opened, first)]
        (version,) = opened.publish_all([made.to_bytes()], base=versions[0].base, tags=checked, origins=origins)
    return Combined(
        task=name,
        version=version.number,
        digest=version.digest,
        operation=operation,
        parents=tuple(one.ref for one in versions),
        num_virtual_tokens=made.card.num_virtual_tokens,
        prompt_bytes=len(made.to_bytes()),
        metric=made.card.metric,
        value=made.card.metrics.get("value"),
        stderr=made.card.metrics.get("stderr"),
        rows=reports[0].rows if reports else None,
        parent_values=tuple(report.value for report in reports[1:]),
        report=reports[0] if reports else None,
    )


def _task_of(versions: Sequence[Version], task: str | None) -> str:
    if task is not None:
        return check_new_task(task)
    names = sorted({version.task for version in versions})
    if len(names) > 1:
        raise ConfigError(f"the prompts are of the tasks {', '.join(names)}; name the task of what they make, with `task`")
    return names[0]


def _check_alike(
    versions: Sequence[Version], parents: Sequence[SoftPrompt], first: Version, operation: Operation, *, given: bool
) -> None:
    """Refuse prompts that cannot be one: of other bases, ensembles, or asked otherwise than what they become."""
    one = versions[0]
    for version, prompt in zip(versions, parents, strict=True):
        if version.fingerprint != one.fingerprint:
            raise FingerprintMismatch(
                f"{one.ref} was made for base {one.card.exact_base} with fingerprint {one.fingerprint}, and {version.ref} "
                f"for {version.card.exact_base} with {version.fingerprint}; combine prompts of one base (`softprompt "
                "library rebind` gives equal bases one fingerprint)"
            )
        prompt.check_single("cannot be combined again")
        if prompt.card.prompt_type == "prefix":
            raise ConfigError(f"{version.ref} is a prefix, and only soft prompts are combined; name soft prompts alone")
        if prompt.classifier is not None and operation in ("concatenate", "ensemble"):
            raise ConfigError(
                f"{version.ref} has a head, and {operation} takes prompts without; average or interpolate them"
            )
        if prompt.classifier is not None and prompt.card.labels != one.card.labels:
            raise ConfigError(
                f"the heads of {one.ref} and {version.ref} are for other labels; combine prompts of one task's"
            )
    if operation == "ensemble" and first.card.labels is None:
        raise ConfigError(
            f"{first.ref} generates text, and an ensemble answers with the mean over labels; average or concatenate instead"
        )
    if first.card.task_type != one.card.task_type:
        raise ConfigError(
            f"{first.ref} is of task type {first.card.task_type}, and {one.ref} of {one.card.task_type}; give as `like` a "
            "version on a base of one kind"
        )
    for version in versions:
        form, other = Form.of_card(one.card), Form.of_card(version.card)
        if other.apart != form.apart:
            raise ConfigError(
                f"{one.ref} and {version.ref} are of versions of softprompt that put answers behind inputs in other ways; "
                "train the older one again"
            )
        unlike = next((name for name in _ASKED if getattr(other, name) != getattr(form, name)), None)
        if unlike is not None and not given:
            here, there = (short(form_fields(it).get(unlike, getattr(it, unlike)), 80) for it in (form, other))
            raise ConfigError(
                f"{one.ref} and {version.ref} are asked otherwise: {unlike} {here} and {there}; say with `like` whose "
                "template, labels and metric it gets"
            )


def _make(
    versions: Sequence[Version],
    parents: Sequence[SoftPrompt],
    first: Version,
    task: str,
    operation: Operation,
    weights: Sequence[float] | None,
) -> SoftPrompt:
    vectors_PD = combine_vectors(
        [prompt.vectors_PD for prompt in parents], [version.ref for version in versions], operation, weights
    )
    heads = [prompt.classifier for prompt in parents if prompt.classifier is not None]
    parts = list(zip(*heads, strict=True))
    classifier = Classifier(*(mean_of(each, weights) for each in parts)) if parts else None
    own, form = parents[0].card.recipe, first.card.recipe
    recipe = {key: own[key] for key in _OF_BASE if key in own} | {"combined": operation}
    recipe |= {key: form[key] for key in (*HOW_ASKED, "retrieve", MESSAGES) if key in form}
    if "label_end" in form and first.fingerprint == versions[0].fingerprint:
        recipe["label_end"] = form["label_end"]
    if operation == "interpolate":
        recipe["weights"] = shares(len(parents), weights)
    recipe |= _found(Form.of_card(first.card), [Form.of_card(version.card) for version in versions], weights)
    digests = {prompt.card.data_digest for prompt in parents}
    ensemble = operation == "ensemble"
    card = Card(
        format=2 if ensemble or heads else 1,
        task=task,
        task_type=parents[0].card.task_type,
        base=parents[0].card.base,
        fingerprint=versions[0].fingerprint,
        num_virtual_tokens=len(vectors_PD),
        token_dim=vectors_PD.shape[1],
        recipe=recipe,
        data_digest=digests.pop() if len(digests) == 1 else None,
        parents=tuple(version.digest for version in versions),
        members=tuple(len(prompt.vectors_PD) for prompt in parents) if ensemble else (),
        **first.card.form(),
    )
    # Where inputs lie is the task's own, whatever the prompt: those of its versions tell, and no others.
    centroids = [prompt.centroid_D for version, prompt in zip(versions, parents, strict=True) if version.task == task]
    centroid = next((one for one in centroids if one is not None), None)
    return SoftPrompt(vectors_PD, card, centroid, classifier)


def _found(form: Form, parents: Sequence[Form], weights: Sequence[float] | None) -> dict[str, Any]:
    """What trainings found for the answers of prompts, as one that is combined has it: the mean of their thresholds, and a
    range that holds all of theirs; that of `form` where it asks for other answers than they do."""
    if any((one.problem_type, one.labels) != (form.problem_type, form.labels) for one in parents):
        return form.found()
    parts = zip(shares(len(parents), weights), parents, strict=True)
    form = replace(form, threshold=round(math.fsum(part * one.threshold for part, one in parts), 9))
    ranges = [one.answer_range for one in parents if one.answer_range is not None]
    if len(ranges) == len(parents):
        form = replace(form, answer_range=(min(low for low, _ in ranges), max(high for _, high in ranges)))
    return form.found()


def _judged(
    library: Library,
    made: SoftPrompt,
    versions: Sequence[Version],
    first: Version,
    parents: Sequence[SoftPrompt],
    data: Rows,
    base: BaseLike,
    progress: Progress,
) -> tuple[SoftPrompt, list[Report]]:
    """The prompt with its score in its card, its report, and those of its parents, all on the same rows."""
    task, read = case_to_judge(first.ref, library, data)
    for remark in read.source.remarks_on_inputs(read.task.form):
        progress.warn(remark)
    case = Case(versions[0], task or read.task, read.source, read.given)
    options = case.named if isinstance(base, FrozenBase) else case.options(BaseOptions.of(base))
    loaded = base_of(base, options, progress)
    form = Form.of_card(made.card)
    case.task.form = form
    trials = []
    named = [("what is combined", form), *((one.ref, _own(form, Form.of_card(one.card))) for one in versions)]
    for (whose, asked), prompt in zip(named, (made, *parents), strict=True):
        prompt.check_base(loaded)
        examples = case.task.encode(loaded, case.rows, prompt.columns, split="test")
        for remark in examples.remarks(whose):
            progress.warn(remark)
        trials.append(Trial(asked, prompt.rows_PD.to(loaded.dtype), examples, prompt.card.members))
    engine = OfflineEngine(architecture_of(loaded), warn=progress.warn)
    with progress.stage("judge", sum(len(trial.examples) for trial in trials)) as advance:
        reports = result_of(judge(engine, trials), advance)
    for (whose, _), report in zip(named, reports, strict=True):
        for remark in report.remarks(whose):
            progress.warn(remark)
    report = reports[0]
    metrics = {"value": report.value, "stderr": report.stderr, "rows": report.rows}
    recipe = made.card.recipe | {"dtype": str(loaded.dtype)[6:], "test_digest": digest_rows(case.rows)}
    card = made.card.model_copy(update={"metrics": metrics, "recipe": recipe})
    return replace(made, card=card), reports


def _own(form: Form, parent: Form) -> Form:
    """The form that a parent is judged in: with the threshold and the range of its own, as it answers alone, where it was
    tuned for the same answers."""
    if (parent.problem_type, parent.labels) != (form.problem_type, form.labels):
        return form
    return replace(form, threshold=parent.threshold, answer_range=parent.answer_range)


def _wishes_of(library: Library, version: Version) -> Origin | None:
    """How a version wishes to be served, and where its passages are, for one that is asked as it is; None where it says
    nothing."""
    origin = library.registry.origin(version.ref)
    said = {key: origin.task_file.get(key) for key in ("serving", "retrieve")} if origin is not None else {}
    kept = {key: block for key, block in said.items() if block}
    return Origin(None, kept, []) if kept else None
