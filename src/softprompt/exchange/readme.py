"""What stands beside a PEFT adapter for people: PEFT words no inputs, so which token ids to feed it."""

from __future__ import annotations

import itertools
import json
import os

from softprompt.bases.files.locate import kind_of
from softprompt.exchange.card_file import commit_of
from softprompt.prompts.card import BASELINES, Card
from softprompt.tasks.answers.kinds import number_text
from softprompt.tasks.form import ANSWERS, BEHIND, Form
from softprompt.tasks.wording.template import PASSAGES
from softprompt.text import plural

_TOP = """# {task}: a {kind} for {base}

Exported by softprompt. `peft.PeftModel.from_pretrained(model, FOLDER)` loads it. PEFT puts the {put} in front of
the token ids that it is given and does no more, so softprompt's answers come from these ids:

- {framed}; the attention mask is all ones.
- The input is the template `{input}`, its columns filled: `input_ids` below. What a column says is text,
  control tokens in it too (`split_special_tokens=True`); control tokens of the template itself are meant.
"""
_ADAPTED = (
    "- The base has the LoRA adapter `{0}` merged into its weights; without it the answers are others:\n"
    "  `model = PeftModel.from_pretrained(model, ADAPTER).merge_and_unload()` comes first.\n"
)
_CONVERSATION = (
    "- `{messages}` is a conversation as the base's chat template words it, up to where the assistant's answer begins:\n"
    "  `tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)`. Below\n"
    "  it is that text, spaces at its end left out, in which users must not write control tokens.\n"
)
_PASSAGES = (
    "- `{{passages}}` is what the answer is to be taken from: texts, each on a line of its own, its white space\n"
    "  single blanks{found}.\n"
)
_FOUND = "; of\n  softprompt's the {0} at most that it finds for `{1}`, the best first, which nothing here looks up"
_HELD = "- The answer is held to JSON of this schema, as by an engine's structured outputs: `{0}`.\n"
_WORDED = "- An answer is worded `{target}` and encoded apart from the input{start}.\n"
_OF_A_HEAD = (
    "- The base is loaded with as many outputs as there are labels (`num_labels={0}, ignore_mismatched_sizes=True`): the\n"
    "  head of the adapter takes the place of its last layer, and its logits are of the labels in this order: {1}.\n"
)
_OF_A_FILE = (
    "- The base is a GGUF file, which transformers loads with `gguf_file`, the model like the tokenizer below. It spells\n"
    "  some texts otherwise than softprompt does: on some models it does not split numbers into digits, as they learnt it.\n"
)
_ELSEWHERE = "- The base is none of the hub's: below `{0}` stands for where you have it.\n"
_GENERATED = "- The answer is generated greedily, {0} tokens at most, and stripped of white space.\n"
_LABELLED = (
    "- A label's score is the sum of its tokens' log-probabilities behind the input; the answer is the likeliest label.\n"
)
_OF_A_SET = (
    "- Each label is asked apart: `LABEL: yes` and `LABEL: no` stand behind the input, a score is the sum of its tokens'\n"
    "  log-probabilities, and the label holds where 1 / (1 + exp(no - yes)) is {0:g} or more.\n"
)
_ON_A_SCALE = (
    "- A label's score is the sum of its tokens' log-probabilities behind the input; the answer is the mean of the labels'\n"
    "  numbers, weighed by the softmax of the scores: {0}.\n"
)
_A_NUMBER = (
    "- The answer is the first number in what is generated, and the nearest one between {0} and {1} where it is outside.\n"
)
_ENDED = (
    "- The tokens of one label can begin those of another, so each label ends with the end token, which is scored, too.\n"
)
_CODE = """
```python
import re

import transformers

base = {base}
tokenizer = transformers.AutoTokenizer.from_pretrained({opened})


def ids(text):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def answer_ids(text):
{body}

template = {template}  # a text, and the column behind it
special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
controls = sorted({{*special, *tokenizer.all_special_tokens}}, key=len, reverse=True)
marked = controls and tokenizer(controls[0] + "a", add_special_tokens=False)["input_ids"][1:] == ids("a")
later = ids if marked else answer_ids  # how the tokenizer spells text behind a control token


def input_ids(row):
    parts = [{part} for before, column in template]
    if not any(control in told for control in controls for _, told in parts):
        return tokenizer("".join(before + told for before, told in parts), add_special_tokens=False)["input_ids"]
    found, text = [], ""
    for before, told in parts:
        *pieces, last = re.split(f"({{'|'.join(map(re.escape, controls))}})", before)
        for piece, control in zip(pieces[::2], pieces[1::2], strict=True):
            found += [*(later if found else ids)(text + piece), tokenizer.convert_tokens_to_ids(control)]
            text = ""
        text += last + told
    return [*found, *(later if found else ids)(text)]
"""
_PART = '(before, row[column] if column else "")'
_TALK = f'(before + row[column].rstrip(" "), "") if column == "messages" else {_PART}'
_FRAMED = """

def framed_ids(row):
    return [*{before}, *input_ids(row), *{behind}]  # to be fed to the encoder
"""
_APART = "    return ids(text)\n"
_OWN = "    return ids(text.lstrip())  # a text of its own\n"
_BEHIND = """    # This tokenizer marks the beginning of every text; behind other text an answer has no such mark.
    for before in ("\\n", ":", ".", "=", "a", "1"):
        head, both = ids(before), ids(before + text)
        if tokenizer.decode(head).endswith(before) and both[: len(head)] == head:
            return both[len(head) :]
    return ids(text)
"""
_LABELS = """

answers = {answers}
label_ids = {{label: answer_ids(text) for label, text in answers.items()}}
"""
_ENDS = """if any(one != other and other[: len(one)] == one for one in label_ids.values() for other in label_ids.values()):
    label_ids = {{label: [*tokens, {end}] for label, tokens in label_ids.items()}}
"""


def readme_of(card: Card, base: str | None) -> str:
    """How to use an exported prompt with PEFT alone, in Markdown.

    Args:
        base: what loads its base; None where that is not said, as it is on a machine alone.
    """
    recipe, form = card.recipe, Form.of_card(card)
    framed = "No special token is put in front or behind"
    if "left_out" in recipe:
        framed += f": `{recipe['left_out']}`, which the tokenizer would put there, is left out"
    if frame := recipe.get("frame"):
        framed = f"The tokenizer's special tokens are put around the input: {frame[0]} before, {frame[1]} behind"
    decodes = card.task_type == "SEQ_2_SEQ_LM"
    start = ", as a text of its own; the decoder begins with its start token" if decodes else ""
    quoted = {name: _quoted(getattr(card, name)) for name in ("input", "target")}
    kind = ("soft prompt", "virtual tokens") if card.prompt_type == "soft" else ("prefix", "keys and values of each layer")
    text = _TOP.format(task=card.task, base=card.base, kind=kind[0], put=kind[1], framed=framed, input=quoted["input"])
    if (adapter := recipe.get("adapter")) is not None:
        text += _ADAPTED.format(adapter)
    text += _CONVERSATION * form.converses + _passages(form)
    if card.task_type == "SEQ_CLS":
        text += _OF_A_HEAD.format(len(card.labels or ()), ", ".join(map(_quoted, card.labels or ())))
    else:
        text += _WORDED.format(start=start, target=quoted["target"])
    if base is None:
        base = f"PATH/TO/{card.base.rpartition('/')[2]}"
        text += _ELSEWHERE.format(base)
    commit = commit_of(card, base)
    opened = "base" if commit is None else f"base, revision={json.dumps(commit)}"
    if kind_of(base) == "file":
        folder, name = os.path.split(base)
        text, base, opened = text + _OF_A_FILE, folder or ".", f"base, gguf_file={json.dumps(name)}"
    parts = form.input.parts
    pairs = ", ".join(f"({_quoted(before)}, {_quoted(name) if name else None})" for before, name in parts)
    body = _OWN if decodes else _BEHIND if recipe.get(ANSWERS) == BEHIND else _APART
    code = _CODE.format(
        base=json.dumps(base), opened=opened, template=f"[{pairs}]", body=body, part=_TALK if form.converses else _PART
    )
    if frame:
        before, behind = (f"tokenizer.convert_tokens_to_ids({json.dumps(tokens)})" for tokens in frame)
        code += _FRAMED.format(before=before, behind=behind)
    if card.task_type == "SEQ_CLS":
        return f"{text}{code}```\n"
    text += _chosen(form)
    if card.labels is None:
        return f"{text}{code}```\n"
    answers = _answers(form)
    code += _LABELS.format(answers=json.dumps(answers, ensure_ascii=False))
    if _one_begins_another(answers):
        end = recipe.get("label_end")
        code += _ENDS.format(end="tokenizer.eos_token_id" if end is None else f"tokenizer.convert_tokens_to_ids({end!r})")
    return f"{text}{code}```\n"


def how_it_answers(card: Card) -> str:
    """How an answer of a causal model's prompt is worded and chosen, and what it is taken from, as a list in Markdown."""
    form = Form.of_card(card)
    return _passages(form) + _WORDED.format(start="", target=_quoted(card.target)) + _chosen(form)


def _passages(form: Form) -> str:
    """What stands in the place of passages, where an input has one."""
    if PASSAGES not in form.input.fields:
        return ""
    settings = {} if form.retriever is None else form.retriever.settings
    return _PASSAGES.format(found=_FOUND.format(settings["k"], settings["query"]) if settings else "")


def _chosen(form: Form) -> str:
    if form.labels is None:
        number = "" if form.answer_range is None else _A_NUMBER.format(*map(number_text, form.answer_range))
        held = "" if form.output_schema is None else _HELD.format(form.output_schema)
        return f"{_GENERATED.format(form.max_new_tokens)}{held}{number}"
    numbers = ", ".join(f"{_quoted(label)} {number_text(value)}" for label, value in form.values.items())
    told = _OF_A_SET.format(form.threshold) if form.is_set else _ON_A_SCALE.format(numbers) if numbers else _LABELLED
    return told + _ENDED * _one_begins_another(_answers(form))


def _answers(form: Form) -> dict[str, str]:
    return {label: form.target.fill({form.target.fields[0]: label}) for label in form.asked}


def _one_begins_another(answers: dict[str, str]) -> bool:
    return any(other.startswith(one) for one, other in itertools.permutations(answers.values(), 2))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


_TOP_OF_OURS = """# {task}: a {kind} for {base}

`softprompt.safetensors` is the prompt, with its template `{input}`{labels}.
"""
_WITH_OURS = """
## With softprompt

```console
$ softprompt pull {repo}
$ softprompt predict {task} "TEXT"
```

It was tuned on the base with the fingerprint `{fingerprint}`; on another one it is refused.
"""


def hub_card(card: Card, hub_id: str | None, repo: str, *, peft: bool) -> str:
    """The model card of a prompt on the hub: what it is for, how it scores, and how to use it.

    Args:
        hub_id: the base's id on the hub, where it has one.
        repo: where the prompt is.
        peft: whether a PEFT adapter lies beside our file.
    """
    pipeline = {"MASKED_LM": "text-classification", "SEQ_2_SEQ_LM": "text2text-generation"}.get(
        card.task_type, "text-generation"
    )
    head = {
        "library_name": "peft" if peft else "softprompt",
        "pipeline_tag": "text-classification" if card.labels else pipeline,
    }
    head |= {"base_model": hub_id} if hub_id is not None else {}
    lines = [f"{name}: {_quoted(value)}" for name, value in head.items()]
    lines += ["tags:", *(f"- {tag}" for tag in ("softprompt", "prompt-tuning"))]
    labels = f" and the labels {', '.join(map(_quoted, card.labels))}" if card.labels else ""
    kind = "soft prompt" if card.prompt_type == "soft" else "prefix"
    ours = _TOP_OF_OURS.format(task=card.task, kind=kind, base=card.base, input=_quoted(card.input), labels=labels)
    text = readme_of(card, hub_id) if peft else ours
    scores = {"this prompt": card.metrics.get("value"), **{BASELINES[name]: card.metrics.get(name) for name in BASELINES}}
    known = {name: value for name, value in scores.items() if value is not None}
    if "value" in card.metrics:
        rows = f" on {plural(int(card.metrics['rows']), 'row')}" if "rows" in card.metrics else ""
        text += f"\n## Scores\n\n| {card.metric}{rows} | |\n|---|---|\n"
        text += "".join(f"| {name} | {value:.4g} |\n" for name, value in known.items())
    text += _WITH_OURS.format(repo=repo, task=card.task, fingerprint=card.fingerprint)
    return "---\n" + "\n".join(lines) + "\n---\n\n" + text
