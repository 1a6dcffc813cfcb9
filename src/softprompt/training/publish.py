"""From a finished run to a version in the library: the prompt with its card, its origin and its history."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import NotFound, RegistryError, StoreError
from softprompt.evaluation.baselines import beside_baselines
from softprompt.evaluation.findings import WHILE_TRAINING, of_card
from softprompt.evaluation.reference import Reference, Seen, answers_of
from softprompt.evaluation.trials import Report, Trial, result_of
from softprompt.files import write_whole
from softprompt.model.architecture import Architecture
from softprompt.model.centroid import centroid_of, raw_text
from softprompt.model.prefix import layout_for
from softprompt.prompts.card import BARELY, REFERENCE, TEMPERATURE, Card
from softprompt.prompts.prompt import Classifier, SoftPrompt
from softprompt.registry.gate import Rival, rival
from softprompt.registry.records import Origin, Version
from softprompt.rows.sources import Row, digest_rows
from softprompt.tasks.config.config import OF_PATTERNS
from softprompt.tasks.examples import Examples
from softprompt.tasks.form import Form, form_fields
from softprompt.tasks.task import Task
from softprompt.training.events import Event, Noted, Published
from softprompt.training.heads import objective_on
from softprompt.training.member import Member, Tuned

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from softprompt.library.library import Library

CENTROID_ROWS = 200
"""Training rows that say where a task's inputs lie."""


def publishing(architecture: Architecture, member: Member, report: Report, *, tries: int, since: float) -> Iterator[Event]:
    """Publish what became of a member, with all that is to be said of it; up to `tries` times where registry or store fail,
    each after twice as long as the one before. It was begun at `since`, by `time.perf_counter`."""
    prompt, base = make_prompt(architecture, member, report), architecture.base
    if prompt.card.metrics["moved"] < BARELY and member.run.best_step:
        yield Noted(barely_moved(member, prompt), member, warning=True)
    for one in of_card(prompt.card, member.run.history):
        if one.mode in WHILE_TRAINING:
            yield Noted(f"{member.task.name}: {one.evidence}; {one.mend}", member, warning=True)
    for attempt in range(1, tries + 1):
        try:
            version, beside, warnings = publish(member, prompt, base)
            break
        except (StoreError, RegistryError) as error:
            if attempt == tries:
                raise
            yield Noted(f"{member.task.name} cannot be published: {error}", member, warning=True)
            time.sleep(2.0**attempt)
    for message in warnings:
        yield Noted(message, member, warning=True)
    seconds = time.perf_counter() - since
    member.tuned = Tuned.of(member, prompt, report, version, beside, base.params, seconds)
    yield Published(member, member.tuned)


def make_prompt(architecture: Architecture, member: Member, report: Report) -> SoftPrompt:
    """A run's best vectors with their card."""
    base, run = architecture.base, member.run
    assert run.best is not None
    assert run.best_PD is not None
    length = run.config.num_virtual_tokens
    rows_PD, start_PD = run.best_PD.cpu(), run.start_PD[:length]
    vectors_PD = rows_PD[:length]
    moved = round(float((vectors_PD - start_PD).norm() / start_PD.norm().clamp_min(1e-12)), 4)
    metrics = {"value": report.value, "stderr": report.stderr, "rows": report.rows, "moved": moved}
    metrics |= report.others
    metrics |= {"validation": run.best.value, "validation_stderr": run.best.stderr}
    metrics |= beside_baselines(member.task, member.test, report, member.baselines)
    metrics |= run.objective.scores(member.task, member.test, report)
    metrics |= {"truncated": member.truncated} if member.truncated else {}
    trial = Trial(run.form, vectors_PD.to(base.dtype), member.test)
    metrics |= result_of(run.objective.ask(OfflineEngine(architecture), trial))
    card = Card(
        task_type=base.task_type,
        base=base.name,
        fingerprint=base.fingerprint,
        num_virtual_tokens=len(vectors_PD),
        token_dim=vectors_PD.shape[1],
        prompt_type=run.config.prompt_type,
        layers=layout_for(base, architecture.layout).layers if run.config.prompt_type == "prefix" else None,
        recipe=run.config.recipe()
        | {"steps": run.step, "best_step": run.best_step, "dtype": str(base.dtype)[6:]}
        | ({"folds": len(run.folds)} if run.folds else {})
        | (run.own_answers.told() if run.config.unwanted_patterns else {})
        | ({"torch_compile": True} if run.compiled else {})
        | ({"validation_rows": len(run.validation)} if len(run.validation) < run.task.held_out else {})
        | {"test_digest": digest_rows(run.task.test)}
        | base.provenance()
        | run.form.found()
        | ({TEMPERATURE: run.best.temperature} if run.best.temperature is not None else {})
        | run.task.form.rules(base)
        | ({"pooling": architecture.head.pooling} if architecture.head is not None else {})
        | {REFERENCE: reference_of(base, member, report).told()}
        | member.recipe,
        data_digest=run.task.data_digest,
        metrics={name: value for name, value in metrics.items() if not math.isnan(value)},  # of a checkpoint from before
        parents=run.parents,
        **form_fields(run.task.form),
    )
    fields = run.task.form.input.fields
    centroid_D = centroid_of(architecture, [raw_text(fields, row) for row in spread(run.task.train)])
    classifier = None
    if architecture.head is not None and run.labels is not None:
        head = architecture.head.on(rows_PD.shape[1])
        classifier = Classifier(*(part.clone() for part in head.unpack(rows_PD, len(run.labels))))
    return SoftPrompt(vectors_PD.clone(), card, centroid_D, classifier)


def reference_of(base: FrozenBase, member: Member, report: Report) -> Reference:
    """How the rows of a task look: those that it was tuned on, with what its validation rows are answered, and those that it
    was judged on."""
    run = member.run
    assert run.best is not None
    tuned = (run.train,) if run.folds else (run.train, run.validation)
    samples = {"tuned": (tuned, run.best), "judged": ((member.test,), report)}
    return Reference.of(
        base, {name: (_inputs(splits), _answers(run.form, said)) for name, (splits, said) in samples.items()}
    )


def _inputs(splits: Sequence[Examples]) -> list[list[int]]:
    return [[*split.front(place), *ids] for split in splits for place, ids in enumerate(split.inputs)]


def _answers(form: Form, report: Report) -> list[Seen]:
    sure = report.confidences or (math.nan,) * len(report.predictions)
    said = zip(report.predictions, sure, strict=True)
    return [Seen((), answers_of(form, output), confidence) for output, confidence in said]


def barely_moved(member: Member, prompt: SoftPrompt) -> str:
    """The warning that is due where a prompt has barely moved."""
    return (
        f"{member.task.name}: the prompt has barely moved (L2 distance {prompt.card.metrics['moved']:.2%} of its start's "
        f"length); raise learning_rate from {member.run.config.learning_rate:g} ({prompt.card.usual_rates} is usual) or "
        "train longer"
    )


def spread(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows that say where a task's inputs lie: a bounded number of them, from beginning to end."""
    return rows[:: -(-len(rows) // CENTROID_ROWS)]


def publish(
    member: Member, prompt: SoftPrompt, base: FrozenBase
) -> tuple[Version | None, tuple[Rival | None, Rival | None], list[str]]:
    """Make a member's prompt a version of its task; what :func:`enter` gives, without a library nothing.

    Raises:
        StoreError, RegistryError: the library fails; nothing is published.
    """
    if member.library is None:
        return None, (None, None), []

    def also(connection: Connection, version: Version) -> None:
        if member.also is not None:
            member.also(connection, version, member, prompt)

    return enter(member.library, prompt, origin_of(member, base), member.run.history, base.address, also)


def enter(
    library: Library,
    prompt: SoftPrompt,
    origin: Origin,
    history: Sequence[Mapping[str, float]],
    address: str,
    also: Callable[[Connection, Version], object] | None = None,
) -> tuple[Version, tuple[Rival | None, Rival | None], list[str]]:
    """Make a prompt a version of its task, with its origin and its history; a run that has one already keeps that.

    Args:
        address: of its base.
        also: what is to be done in the same transaction.

    Returns:
        The version; how the versions that are live and in production stand beside it; and warnings.

    Raises:
        StoreError, RegistryError: the library fails; nothing is published.
    """
    warnings: list[str] = []
    others = [found(library, ref) for ref in (prompt.card.task, f"{prompt.card.task}@production")]

    def within(connection: Connection, versions: Sequence[Version]) -> None:
        (version,) = versions
        if also is not None:
            also(connection, version)
        # Before the version is there for good, so that a kill leaves none without its history.
        try:
            _keep_history(library, version.ref, history)
        except OSError as error:
            warnings.append(f"the history of {version.ref} cannot be written ({error}); the version is published without it")

    (version,) = library.publish_all([prompt.to_bytes()], base=address, origins=[origin], also=within)
    live, production = (rival(other, prompt.card) if other and other.number != version.number else None for other in others)
    return version, (live, production), warnings


def origin_of(member: Member, base: FrozenBase) -> Origin:
    """What a member's prompt was trained from."""
    return Origin(member.id or None, resolved_file(member.task, base), _sources(member.task))


def found(library: Library, ref: str) -> Version | None:
    """The version that a reference means; None where it means none."""
    try:
        return library.registry.resolve(ref)
    except NotFound:
        return None


def resolved_file(task: Task, base: FrozenBase) -> dict[str, Any]:
    """The task file with everything that it leaves to its surroundings, or to this version's defaults, filled in."""
    config = task.config
    resolved = config.model_dump(mode="json", exclude_none=True) | {
        "task": task.name,
        "base": base.address,
        "task_type": base.task_type,
        "objective": objective_on(task, base),
        "metric": config.metric_name,
        "prompt_tuning_init": config.initializer,
        "encoder_hidden_size": config.hidden_size,
        "max_eval_samples": config.max_eval_samples,  # in which nothing says something: all rows
        "max_baseline_samples": config.max_baseline_samples,
    }
    resolved.pop("tokenizer_name_or_path", None)
    if not config.unwanted_patterns:  # keys of theirs are refused without them
        resolved = {name: value for name, value in resolved.items() if name not in OF_PATTERNS}
    if config.retrieve is not None and (found := task.form.retriever) is not None and found.address is not None:
        resolved["retrieve"]["folder" if config.retrieve.folder is not None else "function"] = found.address
    data = config.data
    if data is not None and not data.dataset:
        for split in ("train", "validation", "test"):
            if isinstance(name := getattr(data, split), str):
                resolved["data"][split] = task.address_of(name)
    return resolved


def _sources(task: Task) -> list[dict[str, Any]]:
    """Where each split's rows came from, and which they were."""
    data = task.config.data
    assert data is not None
    found = []
    held = [] if task.folds else task.validation
    for split, rows in (("train", task.train), ("validation", held), ("test", task.test)):
        name = getattr(data, split)
        address = task.address_of(name if isinstance(name, str) else data.train)
        source = {"split": split, "address": address, "digest": digest_rows(rows), "rows": len(rows)}
        found.append(source | task.faults[split])
    return found


def _keep_history(library: Library, ref: str, history: Sequence[Mapping[str, float]]) -> None:
    folder = library.histories
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{ref}.jsonl", "".join(json.dumps(row) + "\n" for row in history).encode())
