"""PEFT: our prompts run by PEFT and PEFT's run by us, to the same logits."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.bases.base import FrozenBase
from softprompt.bases.files.adapter import CONFIG, WEIGHTS
from softprompt.errors import FingerprintMismatch, PromptFileError
from softprompt.exchange.peft import load_peft, save_peft
from softprompt.exchange.peft_config import read_peft_config
from softprompt.exchange.peft_matrix import TENSOR
from softprompt.exchange.readme import how_it_answers
from softprompt.library.library import Library
from softprompt.model.kinds.causal import Causal
from softprompt.model.splice import stack_prompts
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving.offline import Service
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.form import Form, form_fields
from tests.models import logits_of_rows, make_base, save_base, some_prompt
from tests.spellings import base as base_of_kind
from tests.tasks.wording.test_chat import CHATML, chat_base

# PEFT asks transformers by an old name, and when it saves looks for the base, whose name here is made up.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in some/base:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers.:UserWarning"),
]

ROWS = [[5, 9, 30, 2, 77, 41], [8, 8, 8], [100], [12, 200, 33, 4]]
each_architecture = pytest.mark.parametrize("architecture", ["llama", "gpt2"])


def ours(base: FrozenBase, vectors_PD: torch.Tensor, *, shared: bool = True) -> list[torch.Tensor]:
    """Logits of every token of each row behind a prompt, all rows in one batch."""
    stack, causal = stack_prompts([vectors_PD]), Causal(base)
    with torch.no_grad():
        prefix = causal.compute_prefix(stack) if shared else None
        logits = logits_of_rows(causal, stack, prefix, [0] * len(ROWS), ROWS)
    return list(logits.split([len(row) for row in ROWS]))


def theirs(model: Any, length: int) -> list[torch.Tensor]:
    """The same from a PEFT model, row by row, without the logits of the virtual tokens."""
    model.eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits[0, length:] for row in ROWS]


def assert_equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@each_architecture
def test_an_exported_prompt_run_by_peft_gives_our_logits(architecture: str, tmp_path: Path) -> None:
    base = make_base(architecture)
    prompt = some_prompt(base, "t", rows=7, labels=("yes", "no"))
    expected = [ours(base, prompt.vectors_PD, shared=shared) for shared in (True, False)]
    folder = save_peft(prompt, tmp_path / "adapter", "some/base")
    model = peft.PeftModel.from_pretrained(make_base(architecture).model, str(folder))
    logits = theirs(model, 7)
    for one in expected:
        assert_equal(one, logits)
    plain = [make_base(architecture).model(input_ids=torch.tensor([row])).logits[0] for row in ROWS]
    assert not torch.allclose(logits[0], plain[0], atol=0.1)


def by_peft(architecture: str, folder: Path, length: int = 6) -> list[torch.Tensor]:
    """An adapter that PEFT made and saved, and its logits."""
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length, base_model_name_or_path="some/base")
    torch.manual_seed(5)
    plain = make_base(architecture).model
    plain.name_or_path = "some/base"
    model = peft.get_peft_model(plain, config)
    model.save_pretrained(str(folder))
    return theirs(model, length)


@each_architecture
def test_an_adapter_made_by_peft_gives_the_same_logits_with_us(architecture: str, tmp_path: Path) -> None:
    expected = by_peft(architecture, tmp_path)
    base = make_base(architecture)
    prompt = load_peft(tmp_path, task="t", base=base)
    assert_equal(ours(base, prompt.vectors_PD), expected)
    assert (prompt.card.task, prompt.card.fingerprint, prompt.card.num_virtual_tokens) == ("t", base.fingerprint, 6)
    assert prompt.card.recipe == {"imported": "peft", "named_base": "some/base"}
    assert prompt.card.metrics == {}
    assert torch.equal(SoftPrompt.from_bytes(prompt.to_bytes()).vectors_PD, prompt.vectors_PD)


def test_out_and_in_again_keeps_vectors_and_card(tmp_path: Path) -> None:
    base = make_base("llama")
    prompt = some_prompt(base, "t", labels=("yes", "no"), input="Say: {text}", metrics={"value": 0.5}, parents=("p",))
    again = load_peft(save_peft(prompt, tmp_path, "some/base"), task="t", base=base)
    assert again.digest == prompt.digest
    renamed = load_peft(tmp_path, task="other", base=base)
    assert renamed.card == prompt.card.model_copy(update={"task": "other"})


def test_vectors_that_peft_has_saved_anew_have_no_scores(tmp_path: Path) -> None:
    base = make_base("llama")
    prompt = some_prompt(base, "t", labels=("yes", "no"), metrics={"value": 0.5}, parents=("p",), data_digest="d")
    recipe = {"temperature": 1.5, "problem_type": "x"}
    prompt = dataclasses.replace(prompt, card=prompt.card.model_copy(update={"recipe": recipe}))
    warned: list[str] = []
    folder = save_peft(prompt, tmp_path, "some/base")
    assert load_peft(folder, task="t", base=base, warn=warned.append).card == prompt.card
    assert warned == []
    model = peft.PeftModel.from_pretrained(base.model, str(folder))
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.add_(1.0)
    model.save_pretrained(str(folder))
    again = load_peft(folder, task="t", base=base, warn=warned.append)
    torch.testing.assert_close(again.vectors_PD, prompt.vectors_PD + 1)
    assert (again.card.metrics, again.card.parents, again.card.data_digest) == ({}, (), None)
    assert again.card.recipe == {"problem_type": "x"}
    assert again.card.form() == prompt.card.form()
    assert len(warned) == 1
    assert "another tool has saved them since; they are taken without the scores there" in warned[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_smaller_form_goes_out_as_the_numbers_it_stands_for(dtype: Any, tmp_path: Path) -> None:
    base = make_base("llama")
    prompt = some_prompt(base, "t").as_dtype(dtype)
    again = load_peft(save_peft(prompt, tmp_path, "some/base"), task="t", base=base)
    assert torch.equal(again.vectors_PD, prompt.vectors_PD)
    assert again.card.dtype == "float32"


def test_a_card_of_ones_own_gives_the_form_and_not_its_scores(tmp_path: Path) -> None:
    base = make_base("llama")
    like = some_prompt(base, "like", labels=("good", "bad"), metrics={"value": 0.9}, parents=("p",), data_digest="d").card
    save_peft(some_prompt(base, "t", seed=2, metrics={"value": 0.5}), tmp_path / "exported", "some/base")
    by_peft("llama", tmp_path / "made", length=3)
    for folder in ("exported", "made"):
        card = load_peft(tmp_path / folder, task="new", base=base).card.changed(like.form())
        assert (card.task, card.labels) == ("new", ("good", "bad"))
        assert (card.metrics, card.parents, card.data_digest) == ({}, (), None)


def test_an_export_of_another_base_is_refused_by_fingerprint(tmp_path: Path) -> None:
    base, other = make_base("llama"), make_base("llama", seed=1)
    save_peft(some_prompt(base, "t"), tmp_path, "some/base")
    with pytest.raises(FingerprintMismatch) as caught:
        load_peft(tmp_path, task="t", base=other)
    assert base.fingerprint in str(caught.value)
    assert other.fingerprint in str(caught.value)


def edit_config(folder: Path, **fields: Any) -> None:
    file = folder / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def refused(folder: Path) -> str:
    with pytest.raises(PromptFileError) as caught:
        load_peft(folder, task="t", base=make_base("llama"))
    return str(caught.value)


def test_an_adapter_of_another_width_is_refused(tmp_path: Path) -> None:
    by_peft("llama", tmp_path)
    safetensors.torch.save_file({TENSOR: torch.zeros(6, 16)}, tmp_path / WEIGHTS)
    edit_config(tmp_path, token_dim=16)
    assert "is 16 wide and random/llama is 32; it was tuned on 'some/base': give that base" in refused(tmp_path)


def test_what_is_no_prompt_tuning_is_refused(tmp_path: Path) -> None:
    lora = peft.get_peft_model(make_base("llama").model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    lora.save_pretrained(str(tmp_path / "lora"))
    assert "is LORA, not PROMPT_TUNING" in refused(tmp_path / "lora")
    by_peft("llama", tmp_path / "two")
    edit_config(tmp_path / "two", num_transformer_submodules=2)
    assert "2 submodules" in refused(tmp_path / "two")


def test_a_folder_without_its_files_is_refused(tmp_path: Path) -> None:
    assert "is no PEFT folder: adapter_config.json cannot be read" in refused(tmp_path / "none")
    by_peft("llama", tmp_path)
    kept = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).unlink()
    assert "adapter_model.safetensors' cannot be read" in refused(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(kept[:-5])
    assert "is no safetensors file" in refused(tmp_path)
    safetensors.torch.save_file({"other": torch.zeros(2)}, tmp_path / WEIGHTS)
    assert "holds no matrix 'prompt_embeddings' but other" in refused(tmp_path)
    safetensors.torch.save_file({TENSOR: torch.zeros(0, 32)}, tmp_path / WEIGHTS)
    assert "holds no matrix 'prompt_embeddings' but prompt_embeddings (0 x 32)" in refused(tmp_path)
    for value in (float("nan"), float("inf"), -float("inf")):
        safetensors.torch.save_file({TENSOR: torch.full((6, 32), value)}, tmp_path / WEIGHTS)
        assert "not finite" in refused(tmp_path)
    for text, expected in (("{", "is not JSON"), ("[]", "is list, not PROMPT_TUNING"), ("{}", "is None, not PROMPT_TUNING")):
        (tmp_path / CONFIG).write_text(text)
        assert expected in refused(tmp_path)


def test_an_exported_card_that_is_spoilt_is_refused(tmp_path: Path) -> None:
    base = make_base("llama")
    save_peft(some_prompt(base, "t"), tmp_path, "some/base")
    card = tmp_path / "softprompt_card.json"
    card.write_bytes(b"\xff")
    assert "softprompt_card.json' cannot be read" in refused(tmp_path)
    card.write_text("{}")
    assert "the card of this prompt file is wrong" in refused(tmp_path)


def test_the_exported_config_says_what_peft_needs(tmp_path: Path) -> None:
    prompt = some_prompt(make_base("llama"), "t", rows=4)
    config = read_peft_config(save_peft(prompt, tmp_path, "some/base"))
    assert config["base_model_name_or_path"] == "some/base"
    assert (config["num_virtual_tokens"], config["token_dim"], config["task_type"]) == (4, 32, "CAUSAL_LM")
    assert isinstance(peft.PeftConfig.from_pretrained(str(tmp_path)), peft.PromptTuningConfig)
    assert Card.parse((tmp_path / "softprompt_card.json").read_text()) == prompt.card


def test_two_prompts_in_one_batch_are_each_their_own_here_and_not_with_peft(tmp_path: Path) -> None:
    """PEFT runs one active adapter for a whole batch of prompt tuning; here every row has its own prompt."""
    base = make_base("llama")
    prompts = [some_prompt(base, "t", rows=5, seed=seed) for seed in (1, 2)]
    stack = stack_prompts([prompt.vectors_PD for prompt in prompts])
    rows, causal = [ROWS[0]] * 2, Causal(base)
    with torch.no_grad():
        mixed = causal.logits_behind(stack, causal.compute_prefix(stack), [0, 1], rows, [[], []])
    for index, prompt in enumerate(prompts):
        folder = save_peft(prompt, tmp_path / str(index), "some/base")
        model = peft.PeftModel.from_pretrained(make_base("llama").model, str(folder))
        with torch.no_grad():
            batch = model(input_ids=torch.tensor(rows)).logits[:, -1]
        assert torch.allclose(batch[0], batch[1], atol=1e-5)
        torch.testing.assert_close(mixed[index], batch[index], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(mixed[0], mixed[1], atol=0.1)


# Whole, or not at all


def saved(config: Any, folder: Path, model: Any = None, *, resize: int | None = None) -> Any:
    """An adapter of some kind as PEFT itself makes and saves it; the model that it made."""
    torch.manual_seed(5)
    plain = model or transformers.AutoModelForCausalLM.from_pretrained(folder.parent / "base")
    if resize is not None:
        plain.resize_token_embeddings(resize)
    made = peft.get_peft_model(plain, config)
    made.save_pretrained(str(folder))
    return made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that holds the base of the adapters, called `base`."""
    save_base(tmp_path / "base")
    return tmp_path


def vectors(**more: Any) -> Any:
    return peft.PromptTuningConfig(**{"task_type": "CAUSAL_LM", "num_virtual_tokens": 6, **more})


@pytest.mark.parametrize(
    ("head", "kind", "why"),
    [
        ("AutoModelForSequenceClassification", "SEQ_CLS", "and random/llama is CAUSAL_LM; give the base that it is for"),
        (
            "AutoModelForTokenClassification",
            "TOKEN_CLS",
            "not CAUSAL_LM, SEQ_2_SEQ_LM or SEQ_CLS: it answers through a head",
        ),
    ],
)
def test_an_adapter_with_a_head_is_refused_with_and_without_it(head: str, kind: str, why: str, place: Path) -> None:
    model = getattr(transformers, head).from_pretrained(place / "base", num_labels=3)
    saved(vectors(task_type=kind), place / "a", model)
    assert f"is for {kind}, {why}" in refused(place / "a")
    edit_config(place / "a", task_type="CAUSAL_LM")
    assert "brings modules of its own beside the prompt (modules_to_save: classifier, score)" in refused(place / "a")
    edit_config(place / "a", modules_to_save=None)
    assert "holds more than a prompt: base_model.score." in refused(place / "a")


def test_an_adapter_with_saved_modules_or_a_resized_vocabulary_is_refused(place: Path) -> None:
    saved(vectors(modules_to_save=["lm_head"]), place / "modules")
    assert "(modules_to_save: lm_head)" in refused(place / "modules")
    saved(vectors(), place / "resized", resize=330)
    message = refused(place / "resized")
    assert "base_model.lm_head.weight (330 x 32), base_model.model.embed_tokens.weight (330 x 32); a head, or emb" in message


@pytest.mark.parametrize("what", ["FEATURE_EXTRACTION", "QUESTION_ANS", "OTHER", 3, ["CAUSAL_LM"]])
def test_other_tasks_are_refused_by_name_and_none_is_fine(what: Any, tmp_path: Path) -> None:
    by_peft("llama", tmp_path)
    edit_config(tmp_path, task_type=what)
    assert f"is for {what}, not CAUSAL_LM" in refused(tmp_path)
    assert "encoder-decoder" not in refused(tmp_path)
    edit_config(tmp_path, task_type=None)
    assert load_peft(tmp_path, task="t", base=make_base("llama")).card.num_virtual_tokens == 6


def test_other_methods_are_refused_with_what_they_are(place: Path) -> None:
    common: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    config: Any
    for config, expected in (
        (
            peft.MultitaskPromptTuningConfig(**common, num_tasks=2),
            "is MULTITASK_PROMPT_TUNING, not PROMPT_TUNING; its tasks",
        ),
        (
            peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]),
            "LORA, not PROMPT_TUNING; LoRA changes the base",
        ),
        (peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]), "is IA3, not PROMPT_TUN"),
    ):
        saved(config, place / config.peft_type.value)
        assert expected in refused(place / config.peft_type.value)
    file = place / "MULTITASK_PROMPT_TUNING"
    edit_config(file, peft_type="PROMPT_TUNING")
    assert "holds more than a prompt: prefix_task_cols (2 x 4 x 1), prefix_task_rows (2 x 1 x 32)" in refused(file)


@pytest.mark.parametrize("encoder", ["MLP", "LSTM"])
def test_p_tuning_is_taken_as_what_its_encoder_has_made(encoder: str, place: Path) -> None:
    config = peft.PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=6, encoder_hidden_size=16, encoder_reparameterization_type=encoder
    )
    made = saved(config, place / "a")
    base = FrozenBase.load(str(place / "base"))
    prompt = load_peft(place / "a", task="t", base=base)
    assert_equal(ours(base, prompt.vectors_PD), theirs(made, 6))
    plain = transformers.AutoModelForCausalLM.from_pretrained(place / "base")
    assert_equal(ours(base, prompt.vectors_PD), theirs(peft.PeftModel.from_pretrained(plain, str(place / "a")), 6))
    assert prompt.card.recipe == {"imported": "peft", "peft_type": "P_TUNING"}


@pytest.mark.parametrize("kind", ["prompt_tuning", "Prompt_Tuning"])
def test_the_case_of_a_method_and_what_only_training_reads_do_not_matter(kind: str, tmp_path: Path) -> None:
    by_peft("llama", tmp_path)
    base, told = make_base("llama"), list[str]()
    plain = load_peft(tmp_path, task="t", base=base)
    edit_config(
        tmp_path, peft_type=kind, inference_mode=False, prompt_tuning_init="TEXT", prompt_tuning_init_text="Say:",
        tokenizer_name_or_path="another/one", tokenizer_kwargs={"trust_remote_code": True},
        base_model_name_or_path="random/llama",
    )  # fmt: skip
    same = load_peft(tmp_path, task="t", base=base, warn=told.append)
    assert torch.equal(same.vectors_PD, plain.vectors_PD)
    assert told == []


@given(
    name=st.sampled_from(["num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads"]),
    value=st.one_of(st.integers(-5, 400), st.text(max_size=3), st.floats(), st.lists(st.integers(), max_size=2)),
)
@settings(max_examples=40)
def test_numbers_that_contradict_the_tensor_or_the_base_are_refused(name: str, value: Any) -> None:
    right = {"num_virtual_tokens": 6, "token_dim": 32, "num_layers": 2, "num_attention_heads": 4}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        safetensors.torch.save_file({TENSOR: torch.zeros(6, 32)}, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps({"peft_type": "PROMPT_TUNING", **right, name: value}))
        if value == right[name]:
            load_peft(folder, task="t", base=small_base())
            return
        with pytest.raises(PromptFileError) as caught:
            load_peft(folder, task="t", base=small_base())
        assert f"{name} {value!r}" in str(caught.value)


@functools.cache
def small_base() -> FrozenBase:
    return make_base("llama")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.uint8, torch.bool])
def test_numbers_that_are_no_floats_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    by_peft("llama", tmp_path)
    safetensors.torch.save_file({TENSOR: torch.ones(6, 32, dtype=dtype)}, tmp_path / WEIGHTS)
    assert f"holds {str(dtype)[6:]} numbers, and a prompt is made of floats" in refused(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_floats_of_any_size_are_taken_as_the_numbers_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    by_peft("llama", tmp_path)
    matrix = torch.linspace(-1, 1, 192).view(6, 32).to(dtype)
    safetensors.torch.save_file({TENSOR: matrix}, tmp_path / WEIGHTS)
    assert torch.equal(load_peft(tmp_path, task="t", base=make_base("llama")).vectors_PD, matrix.float())


def test_weights_of_the_older_format_are_opened_for_tensors_alone(tmp_path: Path) -> None:
    by_peft("llama", tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / WEIGHTS)
    (tmp_path / WEIGHTS).unlink()
    torch.save(tensors, tmp_path / "adapter_model.bin")
    assert torch.equal(load_peft(tmp_path, task="t", base=make_base("llama")).vectors_PD, tensors[TENSOR])
    torch.save(Path("code"), tmp_path / "adapter_model.bin")  # no tensor, and so never made
    assert "a pickle of more than tensors, which can name code to be run" in refused(tmp_path)


def test_what_nothing_proves_is_told_and_kept(place: Path) -> None:
    saved(vectors(), place / "a")
    base, told = FrozenBase.load(str(place / "base")), list[str]()
    assert load_peft(place / "a", task="t", base=base, warn=told.append).card.recipe == {"imported": "peft"}
    assert told == []
    edit_config(place / "a", base_model_name_or_path="org/model", revision="v1.0", shiny=3, dull=None)
    recipe = load_peft(place / "a", task="t", base=base, warn=told.append).card.recipe
    assert recipe == {"imported": "peft", "named_base": "org/model", "named_revision": "v1.0"}
    name, revision, keys = told
    assert "names 'org/model' as its base, and is taken for" in name
    assert "was tuned at revision 'v1.0', and nothing tells which one" in revision
    assert "keys in its config that are not known here, and not used: shiny" in keys
    own = save_peft(some_prompt(base, "t"), place / "own", "org/model", "v1.0")
    told.clear()
    load_peft(own, task="t", base=base, warn=told.append)
    assert told == [], "its card has the fingerprint"


def test_an_adapter_of_another_revision_is_refused(place: Path) -> None:
    commits = "1" * 40, "2" * 40
    cached = place / "models--org--model" / "snapshots" / commits[0]
    cached.parent.mkdir(parents=True)
    (place / "base").rename(cached)
    saved(vectors(), place / "a", transformers.AutoModelForCausalLM.from_pretrained(cached))
    base = FrozenBase.load(str(cached))
    edit_config(place / "a", revision=commits[0])
    assert load_peft(place / "a", task="t", base=base).card.recipe["revision"] == commits[0]
    edit_config(place / "a", revision=commits[1])
    with pytest.raises(FingerprintMismatch, match=f"was tuned at revision '{commits[1]}' of its base, and"):
        load_peft(place / "a", task="t", base=base)
    named = dataclasses.replace(base, source="org/model@v2")
    edit_config(place / "a", revision="v1")
    with pytest.raises(FingerprintMismatch, match="'org/model' is at 'v2'; give org/model@v1"):
        load_peft(place / "a", task="t", base=named)
    edit_config(place / "a", revision="v2")
    assert load_peft(place / "a", task="t", base=named).card.num_virtual_tokens == 6


def test_a_base_of_the_hub_is_pinned_to_its_commit(tmp_path: Path) -> None:
    """`AutoPeftModel` loads the revision that the config names; a branch moves on, and so does no branch at all."""
    base, commit = make_base("llama"), "1" * 40
    prompt = some_prompt(base, "t", recipe={"revision": commit})
    for place, (source, asked, revision) in enumerate(
        ((base.name, None, commit), (base.name, "main", commit), ("/models/llama", None, None), ("a/mirror", "v1", "v1"))
    ):
        folder = save_peft(prompt, tmp_path / str(place), source, asked)
        assert json.loads((folder / CONFIG).read_text()).get("revision") == revision
        assert (f'from_pretrained(base, revision="{commit}")' in (folder / "README.md").read_text()) == (revision == commit)


@pytest.mark.parametrize("kind", ["llama_2", "metaspace_first", "byte_level"])
@pytest.mark.parametrize("labels", [("yes", "no"), ("red", "red apple", "blue")])
def test_the_ids_that_the_folder_tells_give_our_scores(kind: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    """Also with a tokenizer that marks words and would begin texts by itself, and with labels that begin others."""
    made = base_of_kind(kind)
    made.model.save_pretrained(tmp_path / "base")
    made.tokenizer.save_pretrained(tmp_path / "base")
    base = FrozenBase.load(str(tmp_path / "base"), dtype="float32")
    form = Form.of_config(parse_config({"task": "t", "input": "{text} =", "labels": list(labels)}))
    fields = form_fields(form) | {"recipe": form.rules(base)}
    prompt = some_prompt(base, fields.pop("task"), **fields)
    folder = save_peft(prompt, tmp_path / "adapter", str(tmp_path / "base"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert ("`<s>`, which the tokenizer would put there, is left out" in text) == (kind == "llama_2")
    assert ("each label ends with the end token" in text) == (len(labels) == 3)
    scope: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], scope)
    model = peft.PeftModel.from_pretrained(made.model, str(folder))
    given = scope["ids"]("the </s> river =")
    found = {}
    for label in labels:
        ids = scope["label_ids"][label]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*given, *ids]])).logits[0, -len(ids) - 1 : -1]
        found[label] = float(logits.log_softmax(-1)[range(len(ids)), ids].sum())
    library = Library.open(tmp_path / "home")
    library.publish(prompt.to_bytes(), base=base.address)
    (ours_,) = Service(library, base=base).predict(["the </s> river"], "t")
    assert ours_.scores is not None
    expected = torch.tensor(list(found.values())).softmax(0).tolist()
    assert list(ours_.scores.values()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["llama_2", "metaspace_first", "byte_level"])
@pytest.mark.parametrize("input", ["<|user|>a {text}<|end|> {more} <s>b", "<|user|>{text}", " {text} <|end|>", "{text} a"])
def test_the_ids_of_an_input_with_control_tokens_are_ours(kind: str, input: str, tmp_path: Path) -> None:
    """Those of the template count, as in a chat template; those in a column are text."""
    made = base_of_kind(kind)
    made.tokenizer.save_pretrained(tmp_path / "base")
    form = Form.of_config(parse_config({"task": "t", "input": input, "labels": ["yes", "no"]}))
    fields = form_fields(form) | {"recipe": form.rules(made)}
    folder = save_peft(some_prompt(made, fields.pop("task"), **fields), tmp_path / "adapter", str(tmp_path / "base"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], scope)
    for said in (("the river", "red"), ("the <|end|> river", "</s>red"), ("<|user|>", ""), (" <s> ", "<|end|>")):
        row = dict(zip(("text", "more"), said, strict=True))
        assert [scope["input_ids"](row)] == form.encode_inputs(made, [row], 4).ids


@pytest.mark.parametrize("kind", ["llama_2", "metaspace_first", "byte_level"])
@pytest.mark.parametrize("input", ["{messages}", "Say {{it}}. {messages}"])
def test_the_ids_of_a_conversation_are_ours(kind: str, input: str, tmp_path: Path) -> None:
    made = chat_base(kind, CHATML)
    made.tokenizer.save_pretrained(tmp_path / "base")
    form = Form.of_config(parse_config({"task": "t", "input": input, "labels": ["yes", "no"]}))
    fields = form_fields(form) | {"recipe": form.rules(made)}
    folder = save_peft(some_prompt(made, fields.pop("task"), **fields), tmp_path / "adapter", str(tmp_path / "base"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "`{messages}` is a conversation as the base's chat template words it" in text
    scope: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], scope)
    turns = [{"role": "user", "content": "the river"}, {"role": "assistant", "content": "red"}]
    turns.append({"role": "user", "content": "and now?"})
    said = scope["tokenizer"].apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert [scope["input_ids"]({"messages": said})] == form.encode_inputs(made, [{"messages": turns}], 4).ids


def test_the_readme_tells_of_an_adapter_and_of_a_schema(tmp_path: Path) -> None:
    recipe = {"adapter": "law", "output_schema": '{"type": "object"}'}
    prompt = some_prompt(make_base("llama"), "t", recipe=recipe, metric="exact_match")
    text = (save_peft(prompt, tmp_path / "a", "org/model") / "README.md").read_text(encoding="utf-8")
    assert "The base has the LoRA adapter `law` merged into its weights" in text
    assert 'to JSON of this schema, as by an engine\'s structured outputs: `{"type": "object"}`.' in text
    plain = save_peft(some_prompt(make_base("llama"), "t"), tmp_path / "b", "org/model") / "README.md"
    assert not {"LoRA", "schema", "conversation"} & {*plain.read_text(encoding="utf-8").replace("`", " ").split()}


@pytest.mark.parametrize("retrieve", [{"query": "{question}", "k": 3, "words": 100, "overlap": 0, "digest": "0" * 64}, None])
def test_the_readme_tells_of_passages(retrieve: dict[str, Any] | None, tmp_path: Path) -> None:
    recipe = {"retrieve": retrieve} if retrieve is not None else {}
    prompt = some_prompt(make_base("llama"), "t", input="{passages}\n{question}", recipe=recipe, metric="exact_match")
    adapter = (save_peft(prompt, tmp_path, "org/model") / "README.md").read_text(encoding="utf-8")
    for text in (adapter, how_it_answers(prompt.card)):  # the latter is what a base with tokens says
        told = " ".join(text.split())
        assert (
            told.count("- `{passages}` is what the answer is to be taken from: texts, each on a line of its own, its white")
            == 1
        )
        found = "the 3 at most that it finds for `{question}`, the best first, which nothing here looks up."
        assert (found in told) == (retrieve is not None)
    plain = some_prompt(make_base("llama"), "t", metric="exact_match")
    assert "passages" not in (save_peft(plain, tmp_path, "org/model") / "README.md").read_text(encoding="utf-8")
