"""A task whose answers are JSON of a schema: what its file must say, what its answers are held to, and whether those of its
rows are such. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from softprompt.errors import DataError
from softprompt.rows.places import Name
from softprompt.tasks.wording.template import Template

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.bases.grammar import Grammar
    from softprompt.tasks.answers.answering import Answering


def check_schema(config: Any) -> None:
    """Refuse keys of a task file that do not go with `output_schema`.

    Raises:
        ValueError: with the key, and what to do.
    """
    for key in ("labels", "problem_type", "no_answer"):
        if getattr(config, key) is not None:
            raise ValueError(f"output_schema: `{key}` is given too, and its answers are no JSON; leave one of them out")
    if config.objective == "distillation":
        raise ValueError(
            "output_schema: distillation learns what the base writes, which no schema holds; use language_modelling on rows "
            "with answers"
        )
    (first, _), *rest = Template(config.target).parts
    if first.strip() or any(text for text, _ in rest):
        raise ValueError(
            f"output_schema: the target {config.target!r} puts text around the answer, which then is no JSON; write the "
            "column alone, such as ' {answer}'"
        )


def grammar_of(form: Answering, base: FrozenBase, schema: str | None = None, name: str = "output_schema") -> Grammar | None:
    """What a task's answers on a base are held to: JSON of its schema, or of another one, behind the white space that its
    target begins with; None where there is no schema.

    Raises:
        ConfigError: it cannot be compiled for this base.
    """
    schema = form.output_schema if schema is None else schema
    if schema is None:
        return None
    first = form.target.parts[0][0]
    white = "" if first.strip() or base.task_type == "SEQ_2_SEQ_LM" else first
    return base.grammars.compile(schema, before=white, name=name)


def check_answers(
    form: Answering, base: FrozenBase, answers: Sequence[str], targets: Sequence[Sequence[int]], name: Name
) -> None:
    """Refuse answers of rows that a task's schema does not allow: no prompt could ever give them.

    Args:
        targets: their token ids, without an end.
        name: what messages call a row, by its place.

    Raises:
        DataError: with the answer, and where it departs from the schema.
    """
    if (grammar := grammar_of(form, base)) is None:
        return
    for index, (answer, ids) in enumerate(zip(answers, targets, strict=True)):
        if (place := grammar.fault(ids)) is not None:
            fits = base.decode(ids[:place]).strip()
            where = f"it fits up to {fits[-60:]!r}" if fits else "no part of it fits"
            raise DataError(
                f"{name(index)}: the answer {answer[:80]!r} is not what `output_schema` allows ({where}); mend the row or "
                "the schema: keys come in the schema's order"
            )
