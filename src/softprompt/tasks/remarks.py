"""What people should know of a task's rows before they train on them: what is blank, repeated, contradictory, missing or
alike. No torch."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from softprompt.tasks.answers.labels import alike, compose, counted, excerpt_of, named
from softprompt.tasks.splits import Source
from softprompt.tasks.wording.template import PASSAGES, field_text
from softprompt.text import plural, words_of

if TYPE_CHECKING:
    from softprompt.tasks.form import Form


SLIPS, LIKE = 2, 0.85
"""So few rows of a label, spelt so much like one with ten times as many, look like slips of the pen."""


def remarks_on_rows(form: Form, sources: Sequence[Source], splits: Mapping[str, Source]) -> Iterator[str]:
    """Warnings, a line each.

    Args:
        sources: the rows of each file.
        splits: those of training, validation and test; no validation where the training rows are held out in turn.
    """
    for source in sources:
        yield from _on_source(form, source)
    yield from _on_shared(form, splits)
    yield from _on_passages(form, splits["training"])
    if form.labels is not None:
        yield from _on_labels(form, form.labels, splits)
    if form.chooses:
        yield from _on_lengths(splits["training"])


def _on_source(form: Form, source: Source) -> Iterator[str]:
    yield from source.remarks_on_inputs(form)
    if source.repeated:
        repeat = "repeats" if source.repeated == 1 else "repeat"
        yield (
            f"{source.name}: {_rows(source.repeated)} of {len(source.rows)} {repeat} the input and the answer of another; "
            "all rows of one input are in one split"
        )
    if found := source.contradictions():
        text, answers = next(iter(found.items()))
        rows = sum(sum(counts.values()) for counts in found.values())
        yield (
            f"{source.name}: {_inputs(len(found))} with different answers, in {_rows(rows)}, such as {_shown(form, text)}: "
            f"{counted(answers)}; mend the answers, or leave the rows out"
        )


def _on_shared(form: Form, splits: Mapping[str, Source]) -> Iterator[str]:
    """Inputs that files of their own have in common."""
    names = list(splits)
    inputs = {name: set(split.inputs) for name, split in splits.items()}
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            if both := inputs[one] & inputs[other]:
                yield (
                    f"{len(both)} of {len(inputs[other])} {other} inputs are {one} inputs too, such as "
                    f"{_shown(form, min(both))}; scores on them say little, so leave them out of one"
                )


def _on_passages(form: Form, training: Source) -> Iterator[str]:
    """That answers which are to be taken from passages do not stand in them."""
    if PASSAGES not in form.input.fields or form.labels is not None or form.is_number:
        return
    pairs = list(zip(training.answers, training.rows, strict=True))
    asked = [(set(words_of(said.casefold())), row) for said, row in pairs if said and said != form.no_answer]
    unfound = sum(not words <= {*words_of(field_text(row, PASSAGES, "a row").casefold())} for words, row in asked)
    if unfound:
        none = (
            "leave their answers empty, with no_answer: unknown" if form.no_answer is None else "leave their answers empty"
        )
        yield (
            f"{unfound} of {_rows(len(asked))} have answers with words that their passages lack, from which a prompt learns "
            f"to guess; look more passages up, or {none}"
        )


def _on_labels(form: Form, labels: Sequence[str], splits: Mapping[str, Source]) -> Iterator[str]:
    written = Counter(
        text
        for split in splits.values()
        for each in split.written
        if each or not form.may_lack_answers
        for text in form.each(each)
    )
    composed = {text: count for text, count in written.items() if compose(text) != text}
    if form.is_set and (none := sum(not answer for split in splits.values() for answer in split.answers)):
        yield f"{_rows(none)} of {sum(len(split.rows) for split in splits.values())} have no label, read as none of them"
    if composed:
        yield (
            f"{_rows(sum(composed.values()))} have labels in decomposed Unicode, which look like others and are not: "
            f"{named(sorted(map(compose, composed)))}; they are read in composed form (NFC)"
        )
    if form.fold_labels:
        folded = {text: count for text, count in written.items() if form.spellings.is_folded(text)}
        if folded:
            shown = counted(dict(sorted(folded.items())))
            yield f"fold_labels: {_rows(sum(folded.values()))} have a label in another spelling: {shown}"
    counts = _counts(form, splits.values())
    if groups := alike({label: count for label, count in counts.items() if label in labels}):
        yield (
            f"labels differ by case, spaces or the spelling of a number alone, and are rivals: "
            f"{'; '.join(map(counted, groups))}; `fold_labels: true`, with one of each in `labels`, makes them one"
        )
    rivals = {label for group in groups for label in group}
    if spaced := [label for label in labels if label != label.strip() and label not in rivals]:
        yield (
            f"labels with spaces around them, which the model learns to say and answers have: {named(spaced)}; "
            "`fold_labels: true`, with `labels` without them, reads the rows all the same"
        )
    for rare in [label for label in labels if label not in rivals and 0 < counts[label] <= SLIPS and label.isalpha()]:
        much = [label for label in labels if counts[label] >= SLIPS * 10]
        for meant in difflib.get_close_matches(rare, much, n=1, cutoff=LIKE):
            yield (
                f"the label {rare!r} has {_rows(counts[rare])}, and is spelt nearly as {meant!r} ({counts[meant]}); "
                "if that is a slip, mend it in the rows and in `labels`"
            )
    if form.target_field in map(str.strip, labels):
        yield (
            f"the column {form.target_field!r} is named like one of its labels: a file without a row of names on top loses "
            "its first row to them, and needs one"
        )
    by_split = {name: _counts(form, [split]) for name, split in splits.items()}
    if form.may_lack_answers:  # a teacher tells what is a label's
        return
    missing = {name: [label for label in labels if label not in counts] for name, counts in by_split.items()}
    nowhere = [label for label in labels if all(label in lacking for lacking in missing.values())]
    if nowhere:
        it = "it" if len(nowhere) == 1 else "them"
        yield f"no row has {_label(nowhere)} {named(nowhere)}; nothing teaches {it}, so give rows or take {it} off `labels`"
    without: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, lacking in missing.items():
        if left := tuple(label for label in lacking if label not in nowhere):
            without[left].append(name)
    for left, names in without.items():
        it, they = ("it", "it is") if len(left) == 1 else ("them", "they are")
        what = f"nothing tells how well {they} predicted"
        if "training" in names:
            what = f"{they.split()[0]} will hardly ever be predicted"
        yield f"no {' and no '.join(names)} row has {_label(left)} {named(left)}: {what}; give more rows of {it}"


BY_LENGTH, FEWEST = 0.98, 20
"""Of two labels' rows so many are told apart by their length, and so many rows the rarer one has, before that is said."""


def _on_lengths(training: Source) -> Iterator[str]:
    """That an input's length alone tells its label: by the best cut between the two most frequent labels."""
    counts = Counter(answer for answer in training.answers if answer)
    (first, most), (second, fewer) = (*counts.most_common(2), ("", 0), ("", 0))[:2]
    if fewer < FEWEST:
        return
    rows = zip(training.inputs, training.answers, strict=True)
    pairs = sorted((len(text), answer == first) for text, answer in rows if answer in (first, second))
    total, below, best = most + fewer, 0, 0
    for place, (length, is_first) in enumerate(pairs):
        below += is_first
        if place + 1 == len(pairs) or pairs[place + 1][0] > length:
            right = below + (fewer - (place + 1 - below))  # the first one below the cut, the second above it
            best = max(best, right, total - right)
    if best >= BY_LENGTH * total and most < BY_LENGTH * total:
        yield (
            f"inputs of {first!r} and {second!r} are told apart by their length alone in {best} of {total} rows; give rows "
            "of like lengths for both: a prompt learns the length, and not the task"
        )


def _shown(form: Form, text: str) -> str:
    """The beginning of an input, from its first column on: what a template says before it is the same in all."""
    return excerpt_of(text.removeprefix(form.input.parts[0][0]))


def _counts(form: Form, sources: Iterable[Source]) -> Counter[str]:
    return Counter(label for source in sources for answer in source.answers for label in form.each(answer))


def _label(labels: Sequence[str]) -> str:
    return "the label" if len(labels) == 1 else "any of the labels"


def _rows(count: int) -> str:
    return plural(count, "row")


def _inputs(count: int) -> str:
    return plural(count, "input")
