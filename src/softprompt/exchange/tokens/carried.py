"""Which prompts can be tokens of a base, and what their tokens are called. No other file of this room refuses a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt.errors import ConfigError, FingerprintMismatch
from softprompt.tasks.form import Form

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.prompts.prompt import SoftPrompt
    from softprompt.registry.records import Version


@dataclass(frozen=True)
class Carried:
    """A prompt that becomes tokens."""

    version: Version
    prompt: SoftPrompt
    form: Form

    @property
    def task(self) -> str:
        """Its task."""
        return self.version.task

    @property
    def tokens(self) -> tuple[str, ...]:
        """What its tokens are called, one for each vector, in order."""
        return tuple(f"{self.mark}{number}|>" for number in range(len(self.prompt.vectors_PD)))

    @property
    def mark(self) -> str:
        """What all of them begin with, and no other task's: names have no colon."""
        return f"<|{self.task}:"


def versions_to_carry(library: Library, refs: Sequence[str]) -> list[Version]:
    """The versions that references name, each of a task of its own and all of one base. No torch.

    Raises:
        NotFound: no such version, or its bytes are gone.
        ConfigError: one is no soft prompt of a causal model, or a task is named twice.
        FingerprintMismatch: they are of several bases.
    """
    if not refs:
        raise ConfigError("no task is named; name one or more of the library")
    versions = [library.registry.resolve(ref) for ref in refs]
    for version in versions:
        _check_kind(version)
    seen: dict[str, Version] = {}
    for version in versions:
        if (other := seen.setdefault(version.task, version)) is not version:
            raise ConfigError(
                f"{other.ref} and {version.ref} are of one task, whose tokens would have the same names; name one of them"
            )
    first = versions[0]
    for version in versions:
        if version.fingerprint != first.fingerprint:
            raise FingerprintMismatch(
                f"{first.ref} is of base {first.card.exact_base} ({first.fingerprint}) and {version.ref} of "
                f"{version.card.exact_base} ({version.fingerprint}); one folder holds one base: export them apart"
            )
    return versions


def carry(library: Library, refs: Sequence[str]) -> list[Carried]:
    """The prompts of these, as tokens; raises as :func:`versions_to_carry`, and `ConfigError` where a template holds a
    token's name, or a conversation."""
    from softprompt.prompts.prompt import SoftPrompt

    versions = versions_to_carry(library, refs)
    prompts = [SoftPrompt.from_bytes(library.read(version), digest=version.digest) for version in versions]
    carried = [Carried(one, prompt, Form.of_card(prompt.card)) for one, prompt in zip(versions, prompts, strict=True)]
    _check_templates(carried)
    return carried


def _check_kind(version: Version) -> None:
    card = version.card
    if card.task_type != "CAUSAL_LM":
        raise ConfigError(
            f"{version.ref} is for {card.task_type}, whose vectors stand before an encoder's input; tokens are for causal "
            "language models; export it with --format softprompt or peft"
        )
    if card.prompt_type != "soft":
        raise ConfigError(
            f"{version.ref} is a prefix, which is keys and values at every layer, and a token has an embedding "
            "alone; export it with --format softprompt or peft, or train it with prompt_type: soft"
        )
    if card.members:
        raise ConfigError(
            f"{version.ref} is an ensemble of {len(card.members)} prompts, whose answers' mean no engine takes of tokens; "
            "export one of those that it was made from"
        )


def _check_templates(carried: Sequence[Carried]) -> None:
    for one in carried:
        if one.form.converses:
            raise ConfigError(
                f"the input of {one.version.ref} has {{messages}}, a conversation in the base's chat template, which would "
                "stand behind the tokens as it is; serve it with softprompt, or export it with --format softprompt"
            )
        literals = "\n".join(literal for literal, _ in one.form.input.parts)
        named = next((other.mark for other in carried if other.mark in literals), None)
        if named is not None:
            raise ConfigError(
                f"the template of {one.version.ref} holds the text {named!r}, with which the tokens of a prompt begin; "
                "train that task with other words, or export it under another name"
            )
