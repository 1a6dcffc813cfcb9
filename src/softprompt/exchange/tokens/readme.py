"""What stands beside an export for people: how each engine is given a prompt by text, and what keeps its tokens from
being said."""

from __future__ import annotations

import json
from collections.abc import Sequence

from softprompt.exchange.readme import how_it_answers
from softprompt.exchange.tokens.carried import Carried
from softprompt.exchange.tokens.vocabulary import Vocabulary
from softprompt.exchange.tokens.wording import INFO, shown
from softprompt.text import plural

_TOP = """# {base} with {prompts} as tokens

Exported by softprompt. The vocabulary of {base} ends at {first}; behind it stand {tokens}, whose embeddings are the vectors
of soft prompts. An engine that is given their names in a text runs the prompts; it needs to know nothing of them.

| task | version | tokens | input |
|---|---|---|---|
{rows}

`{info}` has all of it for programs: the whole texts, the ids, the answers' token ids, and each prompt's card. `…` above
stands for the tokens between, all of which a text must name, in order. The tokenizer puts nothing around texts: a prompt
stands where a text begins.{begins}

## Answers

{answers}
An input that is too long is not cut here, as softprompt does; an engine refuses it or cuts it as it likes.

## Never said

- The output row of each new token is {row}. So greedy answers are what they are without these tokens, in every engine and
  without a setting.
"""
_MEAN = (
    "the mean of all others, which is never the best, and gets\n  a {1:,}th of the probability at most where nothing caps "
    "the logits"
)
_BIAS = "zero and its bias -10,000, which rules it out"
_TRANSFORMERS = """- transformers: `generation_config.json` lists them under `suppress_tokens`, so `generate` never gives
  them, when it samples either.
"""
_ENGINES = """- vLLM reads no such list: where requests sample, `"logit_bias"` of -100 for these ids does the same, or
  `"bad_words"`.
- llama.cpp: `"logit_bias": [[ID, false], ...]` in a request, `--logit-bias ID-100` on the command line. They are control
  tokens, which print as nothing.

User texts must not hold the names of tokens. The chat template refuses such messages; where a program words texts itself, it
must do that, too.
"""
_USE = """
## In transformers

```python
import json
from pathlib import Path

import torch
import transformers

folder = {folder}
model = transformers.AutoModelForCausalLM.from_pretrained(folder)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
known = json.loads(Path(folder, "{info}").read_text())


def ids(task, row):
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    for value in row.values():
        if any(token in value for token in special):
            raise ValueError(f"a special token in {{value!r}}")
    parts = known["tasks"][task]["input"]
    text = "".join(before + (row[column] if column else "") for before, column in parts)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def generate(task, row):
    read = ids(task, row)
    longest = known["tasks"][task]["max_new_tokens"]
    said = model.generate(torch.tensor([read]), max_new_tokens=longest, do_sample=False)[0, len(read) :].tolist()
    if said[-1] in (model.generation_config.eos_token_id or ()):
        said.pop()
    return tokenizer.decode(said, skip_special_tokens=True).strip()


@torch.no_grad()
def scores(task, row):
    read, found = ids(task, row), {{}}
    for label, answer in known["tasks"][task]["labels"].items():
        logits = model(torch.tensor([[*read, *answer]])).logits[0, len(read) - 1 : -1, : known["vocabulary"]]
        found[label] = logits.log_softmax(-1)[range(len(answer)), answer].sum().item()
    return found
```
"""
_VLLM = """
## In vLLM

```bash
vllm serve {folder}
```

`/v1/completions` with `"prompt"`, the whole text of `input` with its columns filled, and `"temperature": 0`. {chat}Of a task
with labels, `"structured_outputs": {{"choice": [...]}}` keeps to its answers.
"""
_LLAMA = """
## In llama.cpp

```bash
llama-server -m {file}
```

`/completion` with `"prompt"`, the whole text of `{input}` with its columns filled, and `"temperature": 0`; it reads control
tokens by name. {chat}With llama-cpp-python: `llama_cpp.Llama("{file}").create_completion(text, temperature=0)`.
"""
_CHAT = "Chats take one user message, the\ncolumn, behind a system message that is the name of the task{optional}. "


def readme_of(
    carried: Sequence[Carried],
    joins: Sequence[str],
    vocabulary: Vocabulary,
    *,
    biased: bool,
    chats: bool,
    folder: str | None,
    file: str | None,
    apart: bool,
) -> str:
    """How to use an export, in Markdown.

    Args:
        joins: of each prompt, what stands behind its tokens.
        biased: whether the head has a bias.
        chats: whether there is a chat template.
        folder: where a folder for transformers is, if there is one.
        file: the name of the GGUF file, if there is one.
        apart: whether texts for that file have keys of their own (`input_gguf`).
    """
    card = carried[0].prompt.card
    rows = "\n".join(
        f"| {one.task} | {one.version.number} | {len(one.tokens)}, from {first} | {_cell(shown(one, join))} |"
        for one, join, first in zip(carried, joins, _firsts(carried, vocabulary), strict=True)
    )
    begins = ""
    if "left_out" in card.recipe:
        begins = f" `{card.recipe['left_out']}`, which the base's own would put there,\nis left out, as it was in training."
    text = _TOP.format(
        base=card.base, prompts=plural(len(carried), "soft prompt"), first=f"{vocabulary.first:,}", rows=rows, info=INFO,
        tokens=f"{len(vocabulary.names):,} more", begins=begins,
        answers="\n".join(f"{one.task}:\n\n{how_it_answers(one.prompt.card)}" for one in carried),
        row=_BIAS if biased else _MEAN.format(0, vocabulary.first),
    )  # fmt: skip
    optional = ", or alone" if len(carried) == 1 else ""
    chat = _CHAT.format(optional=optional) if chats else ""
    text += (_TRANSFORMERS if folder else "") + _ENGINES
    if folder is not None:
        text += _USE.format(folder=json.dumps(folder), info=INFO) + _VLLM.format(folder=folder, chat=chat)
    if file is not None:
        text += _LLAMA.format(file=file, chat=chat, input="input_gguf" if apart else "input")
    return text


def _firsts(carried: Sequence[Carried], vocabulary: Vocabulary) -> list[int]:
    firsts, at = [], vocabulary.first
    for one in carried:
        firsts.append(at)
        at += len(one.tokens)
    return firsts


def _cell(text: str) -> str:
    return "`" + json.dumps(text, ensure_ascii=False)[1:-1].replace("|", "\\|").replace("`", "'") + "`"
