"""What the base can do without any tuning: labels scored after a plain wording, on rows it was never trained on.

python recipes/probe.py [--model src/softprompt/bases/builtin/tiny]
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import questions
import texts
import torch
import torch.nn.functional as F
import words
from export import TARGET
from forms import plural
from transformers import AutoModelForCausalLM, AutoTokenizer
from wordnet import NOUN_KINDS

Example = tuple[str, str]


def label_accuracy(model: Any, tokenizer: Any, examples: Sequence[Example], labels: Sequence[str]) -> float:
    """Share of examples whose label has the largest log-probability among the labels."""
    right = 0
    answers = [tokenizer(" " + label)["input_ids"] for label in labels]
    for text, gold in examples:
        start = tokenizer(text)["input_ids"][-400:]
        longest = max(len(a) for a in answers)
        ids = torch.tensor([start + a + [tokenizer.pad_token_id] * (longest - len(a)) for a in answers])
        with torch.no_grad():
            scores = F.log_softmax(model(ids).logits.float(), dim=-1)[:, len(start) - 1 :]
        sums = [sum(float(scores[i, t, token]) for t, token in enumerate(a)) for i, a in enumerate(answers)]
        right += labels[max(range(len(labels)), key=sums.__getitem__)] == gold
    return right / len(examples)


def exact_match(model: Any, tokenizer: Any, examples: Sequence[Example]) -> float:
    """Share of examples whose greedy continuation, up to a line end, is the answer."""
    right = 0
    for text, gold in examples:
        ids = torch.tensor([tokenizer(text)["input_ids"][-400:]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        reply = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        right += reply.strip().split("\n")[0] == gold
    return right / len(examples)


def main() -> None:
    """Prints a table of zero-shot figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=TARGET)
    parser.add_argument("--rows", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    rng = Random(901)

    def report(name: str, examples: Sequence[Example], labels: Sequence[str] = ()) -> None:
        if labels:
            figure = label_accuracy(model, tokenizer, examples, labels)
            base = f"{Counter(gold for _, gold in examples).most_common(1)[0][1] / len(examples):.2f}"
        else:
            figure, base = exact_match(model, tokenizer, examples), ""
        print(f"| {name} | {len(examples)} | {figure:.2f} | {base} |", flush=True)

    print("| task | rows | accuracy | most frequent label |\n|---|---|---|---|")
    for name, field, labels in (
        ("subjectivity", "Subjectivity", ("subjective", "objective")),
        ("sentence_polarity", "Sentiment", ("positive", "negative")),
    ):
        rows = rng.sample(texts.labelled(name, validation=True), args.rows)
        report(f"{name}, validation rows", [(f"{text}\n{field}:", label) for text, label in rows], labels)
    scheme = ("abbreviation", "entity", "description", "person", "location", "number")
    asked = [questions.question(rng) for _ in range(args.rows)]
    report(
        "kind of a generated question",
        [(f"Question: {q.text}\nType:", scheme[questions.COARSE.get(q.fine, 1)]) for q in asked],
        scheme,
    )
    kinds = ("person", "animal", "plant", "food", "place", "feeling", "time", "act")
    nouns = [s for s in words.nouns()[1] if NOUN_KINDS[s.lex] in kinds]
    drawn = [rng.choice(nouns) for _ in range(args.rows)]
    report("category of a defined noun", [(f"Definition: {s.short}\nCategory:", NOUN_KINDS[s.lex]) for s in drawn], kinds)
    for name, maker, field in (
        ("definition to headword", words.headword, ("Definition: {}\nWord:")),
        ("plural", None, "Word: {}\nPlural:"),
    ):
        if maker:
            pairs = [maker(rng).draw(rng) for _ in range(args.rows)]
        else:
            pairs = [(w, plural(w)) for w in (rng.choice(words.bases()["n"]) for _ in range(args.rows))]
        report(name, [(field.format(text), gold) for text, gold in pairs])


if __name__ == "__main__":
    main()
