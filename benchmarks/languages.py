"""A prompt tuned on one language, tried on another, and as a start there: quality, and steps saved.

    python benchmarks/languages.py --json
    python benchmarks/languages.py --base models/smollm2.gguf --seeds 3 --json

The data are made by program: sentences out of small lists of words, each about an animal, a food or a tool, which is to be
named in English. Another language is English word for word: `french` by the list below, which a base may know; `invented` by
words of random syllables, which none does. Test sentences have nouns that no training sentence has, so that knowing the
nouns of the training does not help.

For each seed a prompt is tuned on each language from class labels, tried on all of them, and on each other language tuned on
from the English one (`prompt_tuning_init: PROMPT`). A row for each prompt and language that it is tried on; then for each
language how many steps both starts took to what the one from labels had at its best by validation, and the mean of all
prompts as one of several languages (`combine`), tried on each.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from benchmarks.row import Row, print_row
from softprompt.bases.base import FrozenBase
from softprompt.evaluation.combination import combine
from softprompt.evaluation.evaluate import evaluate
from softprompt.library.library import Library
from softprompt.progress import Bars
from softprompt.tasks.task import Task
from softprompt.training.member import Tuned
from softprompt.training.train import train

NOUNS = {
    "animals": "dog cat horse cow sheep goat pig hen duck goose rabbit mouse bear wolf fox bee",
    "food": "bread cheese apple soup rice honey butter pear cake egg salad onion potato sugar plum ham",
    "tools": "hammer saw axe nail shovel rope knife needle ladder brush key lock hook scissors file rake",
}
ADJECTIVES = "old new small big red white black good"
PLACES = "house garden street kitchen field"
FRENCH = {
    **dict(zip(NOUNS["animals"].split(), "chien chat cheval vache mouton chèvre cochon poule canard oie lapin souris ours "
                                         "loup renard abeille".split(), strict=True)),
    **dict(zip(NOUNS["food"].split(), "pain fromage pomme soupe riz miel beurre poire gâteau œuf salade oignon patate sucre "
                                      "prune jambon".split(), strict=True)),
    **dict(zip(NOUNS["tools"].split(), "marteau scie hache clou pelle corde couteau aiguille échelle brosse clé serrure "
                                       "crochet ciseaux lime râteau".split(), strict=True)),
    **dict(zip(ADJECTIVES.split(), "vieux nouveau petit grand rouge blanc noir bon".split(), strict=True)),
    **dict(zip(PLACES.split(), "maison jardin rue cuisine champ".split(), strict=True)),
    "the": "le", "is": "est", "in": "dans", "and": "et",
}  # fmt: skip
HELD_OUT = 5
"""Nouns of each kind that only test sentences have."""


def invented() -> dict[str, str]:
    """A word of random syllables for each English one, no two alike."""
    draw = random.Random("invented")
    made = {
        "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(draw.randint(2, 3))) for _ in range(400)
    }
    return dict(zip(FRENCH, sorted(made, key=lambda word: draw.random()), strict=False))


LANGUAGES = {"english": {word: word for word in FRENCH}, "french": FRENCH, "invented": invented()}


def sentences(language: str, *, test: bool) -> list[Row]:
    """All sentences of a language about nouns of the training, or about the others, word for word those of English."""
    words, rows = LANGUAGES[language], []
    for kind, nouns in NOUNS.items():
        some = nouns.split()[-HELD_OUT:] if test else nouns.split()[:-HELD_OUT]
        for adjective, noun, place in itertools.product(ADJECTIVES.split(), some, PLACES.split()):
            said = f"the {adjective} {noun} is in the {place}"
            rows.append({"text": " ".join(words[word] for word in said.split()), "label": kind})
    return rows


def make_task(language: str, args: argparse.Namespace, seed: int, **more: Any) -> Task:
    """Some sentences of a language, drawn by seed; all languages have the same ones."""
    rows = {test: random.Random(f"{seed} {test}").sample(sentences(language, test=test), count)
            for test, count in ((False, args.rows), (True, args.test_rows))}  # fmt: skip
    return Task(
        task=f"{language}-{seed}",
        data={"train": rows[False], "validation": 0.2, "test": rows[True]},
        input="{text}\nThis is about",
        labels=list(NOUNS),
        num_virtual_tokens=args.P,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        eval_per_epoch=args.validations,
        seed=seed,
        **more,
    )


def steps_to(tuned: Tuned, value: float) -> int | None:
    """The first step at which a validation was as good."""
    return next((int(row["step"]) for row in tuned.history if row["value"] >= value), None)


def measure(base: FrozenBase, args: argparse.Namespace, seed: int, library: Library, progress: Bars) -> list[Row]:
    """The rows of one seed."""
    tasks = {language: make_task(language, args, seed) for language in args.languages}
    first = dict(zip(tasks, train(list(tasks.values()), base=base, library=library, progress=progress), strict=True))
    parent = f"english-{seed}@{first['english'].version}"
    more = [name for name in tasks if name != "english"]
    started = {"prompt_tuning_init": "PROMPT", "prompt_tuning_init_prompt": parent}
    again = [make_task(name, args, seed, **started) for name in more]
    second = dict(zip(more, train(again, base=base, library=library, progress=progress) if again else [], strict=True))

    def tried(tuned: Tuned | str, on: str) -> Row:
        ref = tuned if isinstance(tuned, str) else f"{tuned.prompt.card.task}@{tuned.version}"
        (found,) = evaluate([ref], library=library, data=list(tasks[on].test), base=base, progress=progress)
        return {
            "tried_on": on,
            "value": round(found.value, 4),
            "stderr": round(found.stderr, 4),
            "loss": round(found.loss, 4),
        }

    rows: list[Row] = []
    for start, trained in (("labels", first), ("english prompt", second)):
        for name, tuned in trained.items():
            untrained = tuned.prompt.card.metrics["untrained"]
            known = {"seed": seed, "tuned_on": name, "start": start, "steps": args.steps, "untrained": untrained}
            rows += [{**known, **tried(tuned, on)} for on in tasks]
    for name, tuned in second.items():
        goal = max(row["value"] for row in first[name].history)
        steps = {"from_labels": steps_to(first[name], goal), "from_english": steps_to(tuned, goal)}
        rows.append({"seed": seed, "language": name, "validation": round(goal, 4), **steps})
    refs = [f"{name}-{seed}@{tuned.version}" for name, tuned in first.items()]
    for operation in ("average", "ensemble") if len(refs) > 1 else ():
        made = combine(refs, operation, task=f"all-{operation}-{seed}", library=library)
        rows += [{"seed": seed, "combined": operation, "of": list(first), **tried(f"{made.task}@1", on)} for on in tasks]
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="builtin/tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--languages", nargs="+", choices=list(LANGUAGES), default=list(LANGUAGES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=200, help="training sentences of a language, a fifth of them held out")
    parser.add_argument("--test-rows", type=int, default=200)
    parser.add_argument("--P", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--validations", type=int, default=2, help="in an epoch")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args(arguments)
    args.languages = ["english", *(name for name in args.languages if name != "english")]
    base, progress = FrozenBase.load(args.base, dtype=args.dtype), Bars()
    with tempfile.TemporaryDirectory() as home, Library.open(home) as library:
        for seed in range(args.seeds):
            for row in measure(base, args, seed, library, progress):
                print_row({"base": base.name, **row}, args.json)


if __name__ == "__main__":
    main()
