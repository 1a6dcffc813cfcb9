"""A base with prompts as tokens answers in plain transformers as ours does, and never says one of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import peft
import pytest
import torch
import transformers
from hypothesis import strategies as st
from safetensors import safe_open

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.bases.reading import quiet
from softprompt.exchange.tokens.export import export_tokens
from softprompt.library.library import Library
from softprompt.serving.offline import Service
from tests import spellings
from tests.exchange.tokens.exported import check_answers, library_of, logits_of, used
from tests.models import CONFIGS, VOCABULARY, WORDS, save_base, some_prompt, tokenizer

pytestmark = pytest.mark.slow

TASKS = ["words", "kind", "pair"]
_GQA = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 96, "initializer_range": 0.5, "num_key_value_heads": 2,
}  # fmt: skip
MORE: dict[str, Any] = {
    "untied llama": lambda: transformers.LlamaConfig(**_GQA, tie_word_embeddings=False),
    "a scaled table": lambda: transformers.Gemma3TextConfig(
        **_GQA, head_dim=8, sliding_window=6, query_pre_attn_scalar=8, layer_types=["sliding_attention"] * 2
    ),
    "a biased head": lambda: transformers.PhiConfig(**_GQA),
    "rows without a token": lambda: transformers.LlamaConfig(**{**_GQA, "vocab_size": VOCABULARY + 8}),
}
KINDS = [name for name in CONFIGS if name != "qwen2"]  # whose tokenizer brings a token of its own


def save(folder: Path, config: Any, words: Any = None) -> Path:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with quiet():
        model.save_pretrained(folder)
        (words or tokenizer()).save_pretrained(folder)
    return folder


def base_in(folder: Path, kind: str) -> Path:
    with quiet():
        return save(folder, MORE[kind]()) if kind in MORE else save_base(folder, kind)


@pytest.fixture(scope="module", params=[*KINDS, *MORE])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Library, Path, Path]]:
    """A library, the folder of its base, and its export."""
    place = tmp_path_factory.mktemp("tokens")
    folder = base_in(place / "base", kind)
    with library_of(place / "home", FrozenBase.load(str(folder)), folder) as library:
        export_tokens(library, TASKS, place / "out")
        yield library, folder, place / "out"


@pytest.fixture(scope="module")
def plain(made: tuple[Library, Path, Path]) -> dict[str, Any]:
    return used(made[2])


def test_answers_and_scores_are_ours(made: tuple[Library, Path, Path], plain: dict[str, Any]) -> None:
    check_answers(plain, made[0])


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(data=st.data())
def test_no_new_token_is_ever_the_best_nor_likely(plain: dict[str, Any], data: st.DataObject) -> None:
    first, rows = plain["known"]["vocabulary"], len(plain["tokenizer"])
    ids = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=30))
    logits = logits_of(plain["model"], ids)
    assert logits.shape[1] == rows > first
    old, new = logits[:, :first], logits[:, first:]
    alike = old.amax(1) == old.amin(1)  # behind Gemma's row of padding, which is zero, all tokens are as likely
    assert ((new.amax(1) < old.amax(1)) | alike).all()
    assert (logits.argmax(1) < first).all()
    shares = logits.softmax(-1)[:, first:]
    if plain["model"].config.get_text_config().to_dict().get("final_logit_softcapping") is None:
        assert (shares <= 1.001 / first).all()
    if getattr(plain["model"].get_output_embeddings(), "bias", None) is not None:
        assert (shares == 0).all()


def test_old_tokens_are_what_they_were(made: tuple[Library, Path, Path], plain: dict[str, Any]) -> None:
    _, folder, _ = made
    with quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        words = transformers.AutoTokenizer.from_pretrained(folder)
    first = plain["known"]["vocabulary"]
    ids = words("red apple is 12", add_special_tokens=False)["input_ids"]
    assert plain["tokenizer"]("red apple is 12")["input_ids"] == ids
    assert torch.allclose(logits_of(plain["model"], ids)[:, :first], logits_of(model, ids), atol=1e-5)


def test_sampling_gives_none_of_them(plain: dict[str, Any]) -> None:
    torch.manual_seed(0)
    ids = torch.tensor([plain["ids"]("words", {"text": "red"})] * 8)
    out = plain["model"].generate(ids, max_new_tokens=40, do_sample=True, temperature=50.0, top_k=0, top_p=1.0)
    assert int(out[:, ids.shape[1] :].max()) < plain["known"]["vocabulary"]
    with_them = plain["model"].generate(
        ids, max_new_tokens=40, do_sample=True, temperature=1e4, top_k=0, top_p=1.0, suppress_tokens=None
    )
    if getattr(plain["model"].get_output_embeddings(), "bias", None) is None:
        assert int(with_them[:, ids.shape[1] :].max()) >= plain["known"]["vocabulary"], "nothing was suppressed"


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(
    rows=st.lists(
        st.tuples(st.sampled_from(["words", "kind"]), st.lists(st.sampled_from(WORDS), min_size=1, max_size=6)),
        min_size=1,
        max_size=4,
    )
)
def test_mixes_of_tasks_and_texts(made: tuple[Library, Path, Path], plain: dict[str, Any], rows: list[Any]) -> None:
    texts = [" ".join(words) for _, words in rows]
    answers = Service(made[0]).predict(texts, [task for task, _ in rows])
    for (task, _), text, answer in zip(rows, texts, answers, strict=True):
        if task == "words":
            assert plain["generate"](task, {"text": text}) == answer.output
        else:
            scores = plain["scores"](task, {"text": text})
            assert answer.scores is not None
            assert torch.tensor([*scores.values()]).softmax(0).tolist() == pytest.approx([*answer.scores.values()], abs=2e-5)


def test_the_files_say_what_is_in_them(made: tuple[Library, Path, Path], plain: dict[str, Any]) -> None:
    library, folder, out = made
    known, base = plain["known"], FrozenBase.load(str(folder))
    assert (known["base"], known["fingerprint"], known["vocabulary"]) == (
        "base", base.fingerprint, len(base.embedding.weight),
    )  # fmt: skip
    at = known["vocabulary"]
    for task in TASKS:
        version, told = library.registry.resolve(task), known["tasks"][task]
        assert (told["version"], told["digest"]) == (version.number, version.digest)
        assert told["card"] == json.loads(version.card_text)
        tokens = plain["tokenizer"](told["tokens"]["text"])["input_ids"]
        assert tokens == [*range(at, at + told["tokens"]["count"])]
        assert told["tokens"]["first"] == at
        at += len(tokens)
    assert at == len(plain["model"].get_input_embeddings().weight)
    config = json.loads((out / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config["vocab_size"] == at
    with safe_open(out / "model.safetensors", "pt") as tensors:
        assert any(name.endswith(("lm_head.weight", "embed_out.weight")) for name in tensors.keys())  # noqa: SIM118
    assert str(folder.parent) not in "".join(
        path.read_text(encoding="utf-8") for path in out.iterdir() if path.suffix in (".json", ".md", ".jinja")
    ), "a path of this machine"


def test_rows_without_a_token_get_names_so_that_nothing_moves(tmp_path: Path) -> None:
    folder = base_in(tmp_path / "base", "rows without a token")
    with library_of(tmp_path / "home", FrozenBase.load(str(folder)), folder) as library:
        made = export_tokens(library, ["words"], tmp_path / "out")
    assert len(made.vocabulary.fillers) == 8
    assert made.vocabulary.first == VOCABULARY + 8
    assert used(tmp_path / "out")["tokenizer"].convert_ids_to_tokens(VOCABULARY) == f"<|unused:{VOCABULARY}|>"


@pytest.mark.parametrize("kind", [*spellings.KINDS])
@pytest.mark.parametrize("template", ["{text}", "Say: {text} =", "<|user|>{soft_prompt}{text}<|end|> a", " {text}"])
def test_texts_are_spelled_as_ours_by_tokenizers_of_each_kind(kind: str, template: str, tmp_path: Path) -> None:
    model, words = spellings.base(kind).model, spellings.tokenizer(kind)
    with quiet():
        model.save_pretrained(tmp_path / "base")
        words.save_pretrained(tmp_path / "base")
    base = FrozenBase.load(str(tmp_path / "base"))
    prompt = some_prompt(base, "words", labels=None, metric="exact_match", input=template, max_new_tokens=4)
    with Library.open(tmp_path / "home") as library:
        library.publish(prompt.to_bytes(), base=str(tmp_path / "base"))
        export_tokens(library, ["words"], tmp_path / "out")
        plain = used(tmp_path / "out")
        for text in ("a river of stone", "red: 1, no", "yes"):
            front, behind = prompt_ids(base, template, text)
            first = plain["known"]["vocabulary"]
            assert plain["ids"]("words", {"text": text}) == [*front, *range(first, first + 5), *behind]
            (answer,) = Service(library).predict([text], "words")
            assert plain["generate"]("words", {"text": text}) == answer.output
        # What the tokenizer would put in front by itself is gone, whoever asks for it.
        placed = plain["known"]["tasks"]["words"]["tokens"]["text"]
        assert plain["tokenizer"](placed)["input_ids"] == [*range(first, first + 5)]


def prompt_ids(base: FrozenBase, template: str, text: str) -> tuple[list[int], list[int]]:
    before, found, behind = template.partition("{soft_prompt}")
    front, back = (before, behind) if found else ("", before)
    pieces = [
        [("", "")] if not one else [(one.partition("{text}")[0], text if "{text}" in one else "")] for one in (front, back)
    ]
    pieces[1].append((back.partition("{text}")[2], ""))
    ids = base.encode(pieces)
    return ids[0], ids[1]


def test_a_dtype_is_the_folders_and_by_default_the_bases(tmp_path: Path) -> None:
    with quiet():
        model = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]()).to(torch.bfloat16)
        model.save_pretrained(tmp_path / "base")
        tokenizer().save_pretrained(tmp_path / "base")
    base = FrozenBase.load(str(tmp_path / "base"))
    with library_of(tmp_path / "home", base, tmp_path / "base") as library:
        export_tokens(library, TASKS, tmp_path / "stored")
        export_tokens(library, TASKS, tmp_path / "wide", base=BaseOptions(dtype="float32"))
        for folder, dtype in (("stored", torch.bfloat16), ("wide", torch.float32)):
            plain = used(tmp_path / folder)
            assert plain["model"].dtype == dtype
            if folder == "wide":
                check_answers(plain, library, FrozenBase.load(str(tmp_path / "base"), dtype="float32"))


def test_an_adapter_is_merged_into_what_is_written(tmp_path: Path) -> None:
    folder = base_in(tmp_path / "base", "llama")
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    adapted.save_pretrained(tmp_path / "lora")
    options = BaseOptions(adapter=str(tmp_path / "lora"))
    base = FrozenBase.load(str(folder), adapter=str(tmp_path / "lora"))
    with library_of(tmp_path / "home", base, folder) as library:
        export_tokens(library, TASKS, tmp_path / "out", base=options)
        check_answers(used(tmp_path / "out"), library, base)
