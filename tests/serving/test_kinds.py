"""Bases that are no causal models, from a task to answers: trained, judged, compared, served, and exchanged with PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import peft
import pytest
import torch
import transformers

import softprompt
from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.errors import BaseModelError, ConfigError, DataError, PromptFileError
from softprompt.exchange.importing import import_prompt
from softprompt.exchange.peft import load_peft, save_peft
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving.offline import Service
from softprompt.tasks.form import text_rules
from softprompt.tasks.task import Task
from tests.http_server import serving
from tests.models import START, make_masked, make_seq2seq, some_prompt, tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in:UserWarning"),
]

WORDS = ["red", "green", "blue", "apple", "stone", "river"]


def some_task(name: str, base: Path, **fields: Any) -> Task:
    rows = [{"text": f"{word} {other}", "label": "yes" if word < other else "no"} for word in WORDS for other in WORDS]
    recipe: dict[str, Any] = {"num_virtual_tokens": 5, "max_steps": 4, "per_device_train_batch_size": 4}
    return Task(task=name, base=str(base), data=rows, **{"input": "{text} is", **recipe, **fields})


def prompt_of(library: Library, ref: str) -> SoftPrompt:
    return SoftPrompt.from_bytes(library.read(library.registry.resolve(ref)))


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base, folder = make_seq2seq("t5"), tmp_path_factory.mktemp("bases") / "tiny-t5"
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def test_an_encoder_decoder_goes_from_a_task_to_answers_and_out_to_peft(t5_folder: Path, tmp_path: Path) -> None:
    tasks = [
        some_task("kind", t5_folder, labels=["yes", "no"], task_type="SEQ_2_SEQ_LM"),
        some_task("tell", t5_folder, max_new_tokens=4),
    ]
    with Library.open(tmp_path / "home") as library:
        softprompt.train(tasks, library=library)
        assert [prompt_of(library, task).card.task_type for task in ("kind", "tell")] == ["SEQ_2_SEQ_LM"] * 2
        base = FrozenBase.load(str(t5_folder), device="cpu")
        offline = Service(library, base=base)
        texts = ["red stone", "river"]
        kinds, told = offline.predict(texts, "kind"), offline.predict(texts, "tell")
        with serving(library, base, engine=ContinuousEngine(architecture_of(base))) as server, server.client() as client:
            body = {"model": "kind", "input": texts}
            data = server.http.post(f"{server.url}/v1/classify", json=body).json()["data"]
            for row, answer in zip(data, kinds, strict=True):
                assert row["label"] == answer.output
                assert row["scores"] == pytest.approx(answer.scores, abs=1e-4)
            for text, answer in zip(texts, told, strict=True):
                asked: dict[str, Any] = {"model": "tell", "prompt": f"{text} is", "max_tokens": 4, "temperature": 0}
                assert client.completions.create(**asked).choices[0].text.strip() == answer.output
                parts = client.completions.create(**asked, stream=True)
                assert "".join(part.choices[0].text for part in parts).strip() == answer.output
        (judged,) = softprompt.evaluate("kind", library=library, data=[*tasks[0].test])
        assert judged.rows == len(tasks[0].test)
        vectors_PD = prompt_of(library, "kind").vectors_PD
        save_peft(prompt_of(library, "kind"), tmp_path / "out", str(t5_folder))
        model = peft.PeftModel.from_pretrained(
            transformers.T5ForConditionalGeneration.from_pretrained(t5_folder), str(tmp_path / "out")
        ).eval()
        ids = base.encode(["red stone is"])[0]
        with torch.no_grad():
            theirs = model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([[START]])).logits[0, -1]
            embeds = torch.cat([vectors_PD, base.embed(torch.tensor(ids))])[None]
            ours = base.model(inputs_embeds=embeds, decoder_input_ids=torch.tensor([[START]])).logits[0, -1]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        import_prompt(library, tmp_path / "out", task="again", base=str(t5_folder))
        assert torch.equal(prompt_of(library, "again").vectors_PD, vectors_PD)


def test_what_peft_makes_for_an_encoder_decoder_is_taken_in_without_the_half_that_it_never_uses(
    t5_folder: Path, tmp_path: Path
) -> None:
    plain = transformers.T5ForConditionalGeneration.from_pretrained(t5_folder)
    torch.manual_seed(1)
    model = peft.get_peft_model(plain, peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=6)).eval()
    model.save_pretrained(str(tmp_path / "made"))
    base = FrozenBase.load(str(t5_folder), device="cpu")
    prompt = load_peft(tmp_path / "made", task="t", base=base)
    assert (prompt.vectors_PD.shape, prompt.card.task_type) == ((6, 32), "SEQ_2_SEQ_LM")
    ids, start = [5, 9, 31], torch.tensor([[START]])
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([ids]), decoder_input_ids=start).logits[0]
        embeds = torch.cat([prompt.vectors_PD, base.embed(torch.tensor(ids))])[None]
        ours = base.model(inputs_embeds=embeds, decoder_input_ids=start).logits[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_base_whose_scale_peft_leaves_out_goes_neither_way(tmp_path: Path) -> None:
    base = make_seq2seq("pegasus")
    assert base.embedding_scale == pytest.approx(32**0.5)
    prompt = some_prompt(base, "t", task_type="SEQ_2_SEQ_LM", recipe=text_rules(base))
    with pytest.raises(PromptFileError, match=r"multiplies the embeddings of its inputs by 5.65685"):
        save_peft(prompt, tmp_path / "out", "some/base")
    with pytest.raises(PromptFileError, match="for MASKED_LM, which PEFT has no prompts for"):
        save_peft(some_prompt(base, "t", task_type="MASKED_LM"), tmp_path / "out", "some/base")


def test_other_methods_beside_ours_are_those_that_such_a_base_has(t5_folder: Path) -> None:
    task = some_task("kind", t5_folder, labels=["yes", "no"], max_steps=2)
    rows = list(softprompt.compare(task, methods=["zero_shot", "few_shot", "ours", "lora", "full"], rates=1))
    assert [row["method"] for row in rows] == ["zero_shot", "few_shot", "ours", "lora", "full"]
    with pytest.raises(
        ConfigError,
        match=r"on causal models alone, and tiny-t5 is SEQ_2_SEQ_LM; .*few_shot,ours,p_tuning,ia3,lora,adapters,full$",
    ):
        softprompt.compare(task, methods=["zero_shot", "peft_prompt_tuning"])


# Masked language models


@pytest.fixture(scope="module", params=["bert", "roberta", "electra"])
def masked_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base, folder = make_masked(request.param), tmp_path_factory.mktemp("bases") / f"tiny-{request.param}"
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def test_a_masked_language_model_goes_from_a_task_to_answers(masked_folder: Path, tmp_path: Path) -> None:
    labels = {"labels": ["yes", "is good"], "id2label": {"no": "is good"}}
    tasks = [
        some_task("behind", masked_folder, **labels),
        some_task("inside", masked_folder, **labels, input="{mask} = {text} ?", task_type="MASKED_LM"),
        some_task("deep", masked_folder, **labels, prompt_type="prefix"),
    ]
    with Library.open(tmp_path / "home") as library:
        softprompt.train(tasks, library=library)
        base = FrozenBase.load(str(masked_folder), device="cpu")
        assert (base.task_type, base.context) == ("MASKED_LM", 96)
        offline, texts = Service(library, base=base), ["red stone", "river"]
        with serving(library, base, engine=ContinuousEngine(architecture_of(base))) as server, server.client() as client:
            for task in ("behind", "inside", "deep"):
                assert prompt_of(library, task).card.task_type == "MASKED_LM"
                found = server.http.post(f"{server.url}/v1/classify", json={"model": task, "input": texts}).json()["data"]
                for row, answer in zip(found, offline.predict(texts, task), strict=True):
                    assert row["label"] == answer.output
                    assert row["scores"] == pytest.approx(answer.scores, abs=1e-4)
            with pytest.raises(openai.BadRequestError, match="a masked language model, which writes no text"):
                client.completions.create(model="behind", prompt="red", max_tokens=4)
        assert (prompt_of(library, "deep").card.prompt_type, offline.remarks) == ("prefix", [])
        (judged,) = softprompt.evaluate("inside", library=library, data=[*tasks[1].test])
        assert judged.rows == len(tasks[1].test)
        mask = base.tokenizer.mask_token_id
        rows = tasks[1].form.encode_inputs(base, [{"text": "red"}], 5).ids
        assert rows[0].count(mask) == 1
        assert rows[0][-1] != mask
        assert base.encode(["{mask} [MASK] <mask>"])[0].count(mask) == 0  # what a user writes is text


def test_what_a_masked_language_model_cannot_say_is_refused_by_name(tmp_path: Path) -> None:
    base = make_masked("bert")
    with pytest.raises(DataError, match=r"the label 'zürich': 'zürich' is no sequence of tokens of random/bert,"):
        some_task("t", tmp_path, labels=["yes", "no", "zürich"]).form.encode_labels(base)
    rows = [{"text": "red", "label": "yes"}]
    for input in ("{mask} {text} {mask}", "[MASK] {text} {mask}"):
        twice = some_task("t", tmp_path, labels=["yes", "no"], input=input, task_type="MASKED_LM")
        with pytest.raises(ConfigError, match=r"has more than one mask \({mask} or \[MASK\]\)"):
            twice.encode(base, rows, 4, split="test")
    with pytest.raises(ConfigError, match="has no `labels`, and random/bert is a masked language model"):
        some_task("t", tmp_path).encode(base, rows, 4, split="test")
    with pytest.raises(BaseModelError, match=r"asks for task_type CAUSAL_LM, .* a masked .*: its task type is MASKED_LM"):
        some_task("t", tmp_path, labels=["yes", "no"], task_type="CAUSAL_LM").encode(base, rows, 4, split="test")
    plain = FrozenBase.wrap(base.model, tokenizer())
    with pytest.raises(BaseModelError, match="names no mask token"):
        architecture_of(plain)


def test_a_masked_language_model_that_takes_no_vectors_is_refused() -> None:
    model = transformers.BertForMaskedLM(make_masked("bert").model.config)
    forward = model.forward

    def own(*args: Any, inputs_embeds: Any = None, **kwargs: Any) -> Any:
        return forward(*args, inputs_embeds=None if inputs_embeds is None else 2 * inputs_embeds + 1, **kwargs)

    model.forward = own
    with pytest.raises(BaseModelError, match="it makes something else of tokens than of their embeddings"):
        FrozenBase.wrap(model, make_masked("bert").tokenizer)
