"""Outcomes, comments and corrections that clients send: of which answer, and what they do to the experiment that it was part
of. No torch."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from softprompt.errors import DataError, FieldError, NotFound, SoftPromptError
from softprompt.lifecycle.experiments import ARMS, settle
from softprompt.names import Ref, is_user, parse_own_ref
from softprompt.registry.traffic.experiments import CANDIDATE, CONTROL, RUNNING, Experiment
from softprompt.registry.traffic.feedback import Said
from softprompt.serving.routing.split import MadeId, steady_arm_of
from softprompt.tasks.form import Form

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Version

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Taken:
    """What became of a client's word on an answer."""

    name: str
    """Of the request, by which it is known again."""
    task: str
    version: int
    user: str | None
    """What answered, and whose own version that was; None for one that all share."""
    experiment: int | None
    arm: str | None
    new: bool
    """False where that request has been spoken of before."""
    counted: bool
    """Whether an experiment that runs counts the outcome."""

    @property
    def ref(self) -> str:
        """What answered, as answers call it: `task@3`, or of a user's own `task~user@3`."""
        return f"{self.task}{'' if self.user is None else f'~{self.user}'}@{self.version}"


def take(
    library: Library,
    *,
    name: str | None = None,
    model: str | None = None,
    user: str | None = None,
    key: str | None = None,
    outcome: float | None = None,
    comment: str | None = None,
    correct: Mapping[str, Any] | None = None,
) -> Taken:
    """Keep what a client says of an answer, and decide its experiment where that is clear by now.

    Args:
        name: the id of the answer or of the request.
        model: what was asked for, where the id does not tell.
        user: whose request it was.
        key: what requests without a user are told apart by.
        outcome: how good the answer was, 0 to 1.
        correct: `input` and `answer` as it should be.

    Raises:
        FieldError: the id, the input or the answer is none.
        NotFound, NameRefused: no such model.
        RegistryError: the registry fails; nothing is kept.
    """
    said, version = _bind(library, name, model, user, key)
    if said.user is not None and correct is not None:
        raise FieldError(
            f"correct: {said.task}~{said.user}@{said.version} answered, which is that user's own, and corrections are "
            f"learnt by the prompt that all others share; to correct that one, give its version as `model` ({version.ref}); "
            f"to correct the user's own, add the row to their history (`softprompt personalize {said.task}`)",
            "correct",
        )
    row = None if correct is None else _correction(Form.of_card(version.card), correct)
    said = replace(said, outcome=outcome, comment=comment, correction=row)
    kept = library.registry.feedback.add(said)
    if kept.counted is not None:
        try:
            settle(library, kept.counted)
        except SoftPromptError as error:  # the outcome is kept; the next one decides again
            _LOG.warning("experiment %d cannot be ended just now: %s", kept.counted.id, error)
    return Taken(
        said.name, said.task, said.version, said.user, said.experiment, said.arm, kept.new, kept.counted is not None
    )


def _bind(library: Library, name: str | None, model: str | None, user: str | None, key: str | None) -> tuple[Said, Version]:
    """What an answer was: by its id, if that tells, else by what was asked for and by whom."""
    registry, made = library.registry, MadeId.read(name) if name is not None else None
    asked, own = (None, None) if model is None else parse_own_ref(model)
    if own is not None and user not in (None, own):
        raise FieldError(f"user is {user!r}, and the model {model!r} is that of {own!r}; leave one of them out", "user")
    if made is not None and made.experiment is not None:
        experiment = registry.experiments.get(made.experiment)
        if (
            experiment is None
            or own is not None
            or not made.is_of(experiment)
            or asked not in (None, *_names(experiment, made.arm))
        ):
            raise FieldError(
                f"id {name!r} is that of no answer of {model or 'this library'}; give it as the answer had it", "id"
            )
        version = registry.resolve(experiment.ref_of(made.arm), deleted=True)
        return Said(experiment.task, made.core, version.number, None, experiment.id, made.arm), version
    if asked is None:
        raise FieldError(
            f"id {name!r} does not say what answered; give `model` too, and `user` where the request had one", "model"
        )
    named = made.core if made is not None else name or f"fb_{secrets.token_hex(12)}"
    if own is not None or (asked == Ref(asked.task) and _has_own(library, asked.task, user)):
        found = registry.personal.resolve(asked.task, own or user or "")
        number = asked.number or found.number
        if number > found.number:
            raise NotFound(
                f"user {found.user!r} has no version {number} of task {asked.task!r}; name the newest, {found.ref}"
            )
        return Said(asked.task, named, number, found.user), registry.resolve(asked.task)
    version = registry.resolve(str(asked))
    said = Said(asked.task, named, version.number)
    running = registry.experiments.latest(asked.task) if made is None else None  # an id of ours would tell
    teller = user if user is not None else key or name
    if running is None or running.state != RUNNING or teller is None or _has_own(library, asked.task, user):
        return said, version
    arm = steady_arm_of(running, teller)
    if arm is None:
        arm = next((one for one in ARMS if asked == Ref(running.task, number=running.version_of(one))), None)
    if arm is None:
        raise FieldError(
            f"which version answered {teller!r} is not known, as the weight of experiment {running.id} was changed; give "
            f"the id of the answer, or its version as `model` ({running.ref_of(CONTROL)} or {running.ref_of(CANDIDATE)})",
            "model",
        )
    if asked not in _names(running, arm):
        return said, version
    version = registry.resolve(running.ref_of(arm), deleted=True)
    return Said(asked.task, said.name, version.number, None, running.id, arm), version


def _names(experiment: Experiment, arm: str) -> tuple[Ref, Ref]:
    """What a client may call what it asked: the task, or as the answer did."""
    return Ref(experiment.task), Ref(experiment.task, number=experiment.version_of(arm))


def _has_own(library: Library, task: str, user: str | None) -> bool:
    """Whether a user gets a prompt of their own, which is no part of an experiment."""
    if user is None or not is_user(user):
        return False
    try:
        library.registry.personal.resolve(task, user)
    except NotFound:
        return False
    return True


def _correction(form: Form, correct: Mapping[str, Any]) -> dict[str, Any]:
    """The row that a correction makes: the columns of its input, and the answer."""
    given = correct["input"]
    try:
        row = form.row_of(given) if isinstance(given, str) else dict(given)
        texts: dict[str, Any] = dict(form.texts(row, "correct.input"))
        if form.is_blank(row):
            raise DataError("correct.input is empty; give some text")
    except DataError as error:
        raise FieldError(str(error), "correct.input") from error
    texts[form.target_field] = correct["answer"]
    try:
        form.answered.answer(texts, "correct.answer")
    except DataError as error:
        raise FieldError(str(error), "correct.answer") from error
    return texts
