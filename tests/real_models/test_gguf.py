"""Real GGUF files: the weights that transformers reads of them, the answers that it gives, and the engine's on top."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.bases.gguf.file import read_gguf
from softprompt.bases.gguf.tokenizer import begin_token
from softprompt.engines.continuous import ContinuousEngine
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.model.kinds.causal import Causal
from softprompt.model.splice import stack_prompts
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving.offline import Service
from tests.http_server import serving
from tests.models import logits_of_rows
from tests.real_models.conftest import find

pytestmark = pytest.mark.models

QUESTIONS = ["The capital of France is", "Once upon a time, in 2024,", "Water boils at a temperature of"]


def prompt_of(base: FrozenBase, vectors_PD: torch.Tensor, **fields: Any) -> SoftPrompt:
    length, width = vectors_PD.shape
    card = Card(
        task="mine", base=base.name, fingerprint=base.fingerprint, num_virtual_tokens=length, token_dim=width, **fields
    )
    return SoftPrompt(vectors_PD.detach().clone(), card)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_every_weight_is_what_transformers_reads(name: str, request: pytest.FixtureRequest) -> None:
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    base: FrozenBase = request.getfixturevalue(name)
    expected = load_gguf_checkpoint(str(base.path), return_tensors=True, model_to_load=base.model)["tensors"]
    weights = dict(base.model.named_parameters())
    assert expected.keys() == weights.keys()
    assert all(torch.equal(weights[key], value) for key, value in expected.items())


@torch.no_grad()
@pytest.mark.parametrize(("name", "begins"), [("smollm2", None), ("gemma3", "<bos>")])
def test_what_begins_a_text_is_known_by_the_file_alone(
    name: str, begins: str | None, request: pytest.FixtureRequest
) -> None:
    base: FrozenBase = request.getfixturevalue(name)
    assert begin_token(read_gguf(Path(str(base.path)))) == base.spelling.begins_with == begins


def test_smollm2_answers_as_transformers_does(smollm2: FrozenBase, library: Library) -> None:
    assert smollm2.path is not None
    where = {"pretrained_model_name_or_path": smollm2.path.parent, "gguf_file": smollm2.path.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)

    def generate(ids: list[int]) -> str:
        row = torch.tensor([ids])
        made = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=12, do_sample=False)
        return str(tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True))

    front = tokenizer("Answer in one short sentence. ")["input_ids"]
    prompt = prompt_of(smollm2, smollm2.embed(torch.tensor(front)), metric="exact_match", max_new_tokens=12)
    library.publish(prompt.to_bytes(), base=smollm2.address)
    with serving(library, smollm2, engine=ContinuousEngine(architecture_of(smollm2))) as server:
        client = server.client().with_options(timeout=300)

        def complete(model: str, text: str) -> str:
            return client.completions.create(model=model, prompt=text, max_tokens=12, temperature=0).choices[0].text

        for text in QUESTIONS:
            ids = tokenizer(text)["input_ids"]
            assert complete("smollm2.gguf", text) == generate(ids)
            assert complete("mine", text) == generate(front + ids)  # the embeddings of tokens are those tokens
        messages: Any = [{"role": "user", "content": "Name a colour."}]
        chat = client.chat.completions.create(model="smollm2.gguf", messages=messages, max_tokens=12, temperature=0)
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert (chat.choices[0].message.content or "").strip() == generate(ids).strip()


@torch.no_grad()
def test_scores_of_labels_are_those_of_concatenation(causal: Causal, library: Library) -> None:
    base = causal.base
    labels = ("good", "bad", "neither of the two")
    vectors_PD = torch.randn(7, base.width, generator=torch.Generator().manual_seed(0)) * base.embedding.weight.std()
    prompt = prompt_of(base, vectors_PD, labels=labels, input="Review: {text}\nSentiment:", target=" {label}")
    library.publish(prompt.to_bytes(), base=base.address)
    texts = ["a fine film", "two hours of my life, in 1999"]
    for text, answer in zip(texts, Service(library, base=base).predict(texts, "mine"), strict=True):
        context = base.encode([f"Review: {text}\nSentiment:"])[0]
        sums = []
        for label in base.encode([f" {label}" for label in labels], behind=True):
            spliced = torch.cat([vectors_PD, base.embed(torch.tensor(context + label))])[None]
            logits = base.model(inputs_embeds=spliced, use_cache=False).logits[0, -len(label) - 1 : -1]
            sums.append(logits.log_softmax(-1).gather(1, torch.tensor(label)[:, None]).sum())
        expected = torch.stack(sums).softmax(0)
        assert answer.scores is not None
        torch.testing.assert_close(torch.tensor([answer.scores[label] for label in labels]), expected, rtol=1e-3, atol=1e-4)


def test_prompts_are_shared_and_lines_laid(causal: Causal) -> None:
    assert causal.shares_prefix
    assert causal.lines_agree


@torch.no_grad()
def test_rows_longer_than_the_window_equal_concatenation(gemma3: FrozenBase) -> None:
    assert gemma3.window == 512
    causal = Causal(gemma3)
    generator = torch.Generator().manual_seed(0)
    vectors_PD = torch.randn(20, gemma3.width, generator=generator) * gemma3.embedding.weight.std()
    ids = torch.randint(1000, 200_000, (540,), generator=generator).tolist()
    stack = stack_prompts([vectors_PD])
    embeds = torch.cat([vectors_PD, gemma3.embed(torch.tensor(ids))])[None]
    whole = gemma3.model(inputs_embeds=embeds, use_cache=False).logits[0, -4:]
    found = logits_of_rows(causal, stack, causal.compute_prefix(stack), [0], [ids])[-4:]
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-3)


_PEAK = """
import re, sys
import torch, torchao, transformers
from softprompt.bases.base import FrozenBase

def kib(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

FrozenBase.load("builtin/tiny", device="cpu", quantization="int8")  # all that is imported
open("/proc/self/clear_refs", "w").write("5")  # the peak from here on
before = kib("VmRSS")
base = FrozenBase.load(sys.argv[1], device="cpu", dtype="float32", quantization="int8")
print((kib("VmHWM") - before) * 1024 / (base.params * 4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc, which Linux has")
def test_int8_takes_far_less_memory_than_a_wide_copy_at_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = find("smollm2.gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):  # unpacked first, then from the cache
        done = subprocess.run([sys.executable, "-c", _PEAK, str(file)], capture_output=True, text=True, check=True)
        share = float(done.stdout.split()[-1])
        assert 0.4 < share < 0.85  # of the model in float32; what stays is 0.41 of it


def test_a_bert_and_a_t5_are_called_what_they_are() -> None:
    assert FrozenBase.load(str(find("flan-t5-small")), device="cpu").task_type == "SEQ_2_SEQ_LM"
    assert FrozenBase.load(str(find("minilm")), device="cpu").task_type == "SEQ_CLS"


def test_the_t5_still_speaks() -> None:
    folder = find("flan-t5-small")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("translate English to German: The house is wonderful.", return_tensors="pt")
    made = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(made[0], skip_special_tokens=True) == "Das Haus ist wunderbar."
