"""Prompts of vLLM's prompt adapters, of caikit, TGIS and NeMo: taken whole with their templates, or refused by name."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError, ConfigError, NotFound, PromptFileError, SoftPromptError
from softprompt.exchange.importing import import_prompt, import_prompts
from softprompt.library.library import Library
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving.offline import Service
from tests.commands import Run
from tests.models import make_seq2seq, some_prompt, tokenizer


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "home") as library:
        yield library


@pytest.fixture(scope="module")
def base(base_folder: Path) -> FrozenBase:
    return FrozenBase.load(str(base_folder))


def vectors(base: FrozenBase, seed: int = 0, rows: int = 4) -> torch.Tensor:
    return some_prompt(base, "t", seed=seed, rows=rows).vectors_PD


def caikit(folder: Path, base: FrozenBase, **changes: Any) -> Path:
    """As caikit-nlp saves a prompt; None takes a key out."""
    folder.mkdir(exist_ok=True)
    torch.save(vectors(base), folder / "decoder.pt")
    config = {
        "module_id": "6655831b-960a-4dc5-8df4-867026e2cd41", "base_model_config": {"model_type": "llama"},
        "base_model_name": "tiny-llama", "eos_token": "<end>", "has_base_model": False,
        "verbalizer": "Classify {this}: {{input}} =", "tuning_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM",
        "trained_torch_dtype": "float32", "output_model_types": '["DECODER"]', "ENCODER": "", "DECODER": "decoder.pt",
    } | changes  # fmt: skip
    text = yaml.safe_dump({key: value for key, value in config.items() if value is not None})
    (folder / "config.yml").write_text(text)
    return folder


TEMPLATE = {
    "taskname": "sentiment", "prompt_template": "<|VIRTUAL_PROMPT_0|> {sentence} is {label}", "total_virtual_tokens": 4,
    "virtual_token_splits": [4], "truncate_field": "sentence", "answer_field": "label",
}  # fmt: skip


def nemo(
    file: Path, base: FrozenBase, *, templates: Any = None, table: Any = None, state: Any = None, members: Any = None
) -> Path:
    """As NeMo 1 saves a model of prompt learning."""
    table = {"sentiment": vectors(base)} if table is None else table
    nested = {f"prompt_table.{name}.prompt_embeddings.weight": value for name, value in table.items()}
    nested |= {f"prompt_table.{name}.indices": torch.arange(len(value)) for name, value in table.items()}
    weights = io.BytesIO()
    torch.save({"prompt_table": nested} if state is None else state, weights)
    config = {
        "virtual_prompt_style": "inference", "existing_tasks": [*table], "new_tasks": [],
        "language_model_path": "/models/gpt.nemo", "task_templates": [TEMPLATE] if templates is None else templates,
    }  # fmt: skip
    held = {"./model_config.yaml": yaml.safe_dump(config).encode(), "./model_weights.ckpt": weights.getvalue()}
    with tarfile.open(file, "w") as archive:
        for name, data in (held if members is None else members).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def taken(library: Library, task: str) -> SoftPrompt:
    return SoftPrompt.from_bytes(library.read(library.registry.resolve(task)))


def test_caikits_folder_brings_its_template(library: Library, base: FrozenBase, base_folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    import_prompt(
        library, caikit(tmp_path / "c", base), task="kind", base=str(base_folder), labels=("yes", "no"), warn=told.append
    )
    prompt = taken(library, "kind")
    assert torch.equal(prompt.vectors_PD, vectors(base))
    assert (prompt.card.input, prompt.card.target) == ("Classify {{this}}: {text} =", "{label}")
    assert {"imported": "caikit", "tuning_type": "PROMPT_TUNING", "named_base": "tiny-llama"}.items() <= (
        prompt.card.recipe.items()
    )
    assert any("proves" in line for line in told)
    # Scores are those of the base behind the same vectors, worded by hand.
    (answer,) = Service(library).predict(["red"], "kind")
    ids = tokenizer()("Classify {this}: red =")["input_ids"]
    found = []
    for label in ("yes", "no"):
        tail = tokenizer()(label)["input_ids"]
        embeds = torch.cat([vectors(base), base.embed(torch.tensor([*ids, *tail]))])[None]
        logits = base.model(inputs_embeds=embeds).logits[0, -len(tail) - 1 : -1].log_softmax(-1)
        found.append(logits[range(len(tail)), tail].sum())
    assert answer.scores is not None
    assert [*answer.scores.values()] == pytest.approx(torch.stack(found).softmax(0).tolist(), abs=1e-5)


def test_tgis_and_vllms_adapters(library: Library, base: FrozenBase, base_folder: Path, tmp_path: Path) -> None:
    bare = caikit(tmp_path / "tgis", base)
    (bare / "config.yml").unlink()
    import_prompt(library, bare, task="tgis", base=str(base_folder))
    # As vllm-tgis-adapter made them: three keys, a name that is no base, and a file of one tensor.
    adapter = tmp_path / "vllm"
    adapter.mkdir()
    torch.save({"prompt_embeddings": vectors(base)}, adapter / "adapter_model.bin")
    config = {
        "num_virtual_tokens": 4, "peft_type": "PROMPT_TUNING", "base_model_name_or_path": "this-is-a/temporary-conversion",
    }  # fmt: skip
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(PromptFileError, match="names no base; give it with --base"):
        import_prompt(library, adapter, task="vllm")
    import_prompt(library, adapter, task="vllm", base=str(base_folder))
    for task in ("tgis", "vllm"):
        assert torch.equal(taken(library, task).vectors_PD, vectors(base))
        assert taken(library, task).card.metric == "exact_match"


def test_an_encoders_prompt(library: Library, tmp_path: Path) -> None:
    t5 = make_seq2seq("t5")
    t5.model.save_pretrained(tmp_path / "t5")
    t5.tokenizer.save_pretrained(tmp_path / "t5")
    folder = caikit(tmp_path / "c", t5, task_type="SEQ_2_SEQ_LM")
    (folder / "decoder.pt").rename(folder / "encoder.pt")
    import_prompt(library, folder, task="kind", base=str(tmp_path / "t5"))
    assert taken(library, "kind").card.task_type == "SEQ_2_SEQ_LM"


@pytest.mark.parametrize(
    ("template", "input", "target"),
    [
        ("<|VIRTUAL_PROMPT_0|> {sentence} is {label}", " {sentence} is", " {label}"),
        ("<|VIRTUAL_PROMPT_0|>{a} and {b}: {label}", "{a} and {b}:", " {label}"),
        ("Say: <|VIRTUAL_PROMPT_0|> {sentence}\n{label}", "Say: {soft_prompt} {sentence}\n", "{label}"),
    ],
)
def test_nemos_models(
    library: Library, base: FrozenBase, base_folder: Path, tmp_path: Path, template: str, input: str, target: str
) -> None:
    file = nemo(tmp_path / "m.nemo", base, templates=[TEMPLATE | {"prompt_template": template}])
    import_prompt(library, file, task="feel", base=str(base_folder))
    prompt = taken(library, "feel")
    assert torch.equal(prompt.vectors_PD, vectors(base))
    assert (prompt.card.input, prompt.card.target) == (input, target)
    assert prompt.card.recipe["nemo_task"] == "sentiment"
    assert prompt.card.recipe["language_model_path"] == "/models/gpt.nemo"
    with tarfile.open(file) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    import_prompt(library, tmp_path / "unpacked", task="again", base=str(base_folder))
    assert torch.equal(taken(library, "again").vectors_PD, vectors(base))


def test_of_several_tasks_the_one_that_is_named(
    library: Library, base: FrozenBase, base_folder: Path, tmp_path: Path
) -> None:
    templates = [TEMPLATE, TEMPLATE | {"taskname": "a.b"}]
    table = {"sentiment": vectors(base), "a.b": vectors(base, seed=5)}
    flat = {f"prompt_table.prompt_table.{name}.prompt_embeddings.weight": one for name, one in table.items()}
    for state in (None, flat, {"prompt_encoder": {f"inference_table.{key}": one for key, one in flat.items()}}):
        file = nemo(tmp_path / "m.nemo", base, templates=templates, table=table, state=state)
        import_prompt(library, file, task="a.b", base=str(base_folder))
        assert torch.equal(taken(library, "a.b").vectors_PD, table["a.b"])
    with pytest.raises(PromptFileError, match=r"prompts of 2 tasks, 'sentiment', 'a\.b'; choose one by its name"):
        import_prompt(library, file, task="other", base=str(base_folder))


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code was run",))


def overwritten(name: str, value: Any) -> Callable[[Path, FrozenBase], Path]:
    def make(place: Path, base: FrozenBase) -> Path:
        folder = caikit(place / "c", base)
        torch.save(value(base) if callable(value) else value, folder / name)
        return folder

    return make


def changed(**changes: Any) -> Callable[[Path, FrozenBase], Path]:
    return lambda place, base: caikit(place / "c", base, **changes)


def text(name: str, content: str) -> Callable[[Path, FrozenBase], Path]:
    def make(place: Path, base: FrozenBase) -> Path:
        folder = caikit(place / "c", base)
        (folder / name).write_text(content)
        return folder

    return make


def without_vectors(place: Path, base: FrozenBase) -> Path:
    folder = caikit(place / "c", base)
    (folder / "decoder.pt").unlink()
    return folder


def a_nemo(**given: Any) -> Callable[[Path, FrozenBase], Path]:
    return lambda place, base: nemo(place / "m.nemo", base, **given)


def template(**changes: Any) -> Callable[[Path, FrozenBase], Path]:
    return a_nemo(templates=[TEMPLATE | changes])


def no_archive(place: Path, base: FrozenBase) -> Path:
    (place / "m.nemo").write_bytes(b"no archive")
    return place / "m.nemo"


def gone(place: Path, base: FrozenBase) -> Path:
    return place / "gone.nemo"


def a_bin(value: Any) -> Callable[[Path, FrozenBase], Path]:
    def make(place: Path, base: FrozenBase) -> Path:
        (place / "a").mkdir()
        config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "base_model_name_or_path": "x"}
        (place / "a" / "adapter_config.json").write_text(json.dumps(config))
        torch.save(value, place / "a" / "adapter_model.bin")
        return place / "a"

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (overwritten("decoder.pt", Code()), r"decoder\.pt' is a pickle of more than tensors, which can name code"),
        (overwritten("decoder.pt", {"a": torch.zeros(2, 2)}), "holds a dict of 1, and a prompt is one matrix"),
        (overwritten("decoder.pt", torch.zeros(2, 2, 2)), "a tensor of float32, 2 x 2 x 2"),
        (overwritten("decoder.pt", torch.zeros(2, 2).long()), "a tensor of int64, 2 x 2"),
        (overwritten("decoder.pt", torch.eye(32).to_sparse()), r"a tensor of float32, 32 x 32 \(sparse_coo\)"),
        (overwritten("decoder.pt", torch.zeros(4, 16)), "is 16 wide and tiny-llama is 32"),
        (overwritten("decoder.pt", torch.full((4, 32), float("nan"))), "not finite"),
        (overwritten("decoder.pt", torch.zeros(200, 32)), "context"),
        (overwritten("encoder.pt", torch.zeros(4, 32)), "for an encoder and for a decoder"),
        (text("decoder.pt", "not torch"), r"decoder\.pt' is (a pickle of more than tensors|damaged)"),
        (without_vectors, r"has neither decoder\.pt nor encoder\.pt"),
        (text("config.yml", "a: [b"), r"config\.yml' cannot be read \(\w+\)"),
        (text("config.yml", "- a"), "is no caikit config but list"),
        (changed(task_type="SEQ_2_SEQ_LM"), r"says task_type SEQ_2_SEQ_LM and has decoder\.pt"),
        (changed(verbalizer="{{input}} {{output}}"), "reads input, output and not the input alone"),
        (changed(verbalizer="nothing"), "reads no field and not the input alone"),
        (gone, "cannot be read"),
        (no_archive, "is no archive of NeMo"),
        (a_nemo(members={"./other": b""}), r"has not model_config\.yaml and model_weights\.ckpt but other"),
        (a_nemo(members={"mp_rank_00/model_weights.ckpt": b""}), "is split over devices"),
        (a_nemo(state=Code()), "a pickle of more than tensors"),
        (a_nemo(state={"model": torch.zeros(2)}), "holds no table of prompts"),
        (a_nemo(state={"prompt_encoder": {"mlp.weight": torch.zeros(2)}}), "holds the encoder that makes a prompt"),
        (a_nemo(templates=[]), "has no template for the task 'sentiment'"),
        (template(total_virtual_tokens=9), "says 9 virtual tokens .* its table holds 4"),
        (template(prompt_template="<|VIRTUAL_PROMPT_0|> {s} <|VIRTUAL_PROMPT_1|> {label}"), "stands at 2 places"),
        (template(prompt_template="{s} {label}"), "stands at 0 places"),
        (template(prompt_template="<|VIRTUAL_PROMPT_0|> {label} {s}"), "does not end with its answer"),
        (template(answer_field=None), "does not end with its answer"),
        (a_bin(Code()), r"adapter_model\.bin' is a pickle of more than tensors"),
        (a_bin(torch.zeros(4, 32)), "holds no tensors by name but Tensor"),
        (a_bin({"prompt_embeddings": torch.eye(32).to_sparse()}), "holds a sparse tensor"),
    ],
)
def test_what_is_refused(
    library: Library, base: FrozenBase, base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    make: Callable[[Path, FrozenBase], Path], message: str,
) -> None:  # fmt: skip
    source = make(tmp_path, base)
    with pytest.raises(SoftPromptError, match=message):
        import_prompt(library, source, task="kind", base=str(base_folder))
    with pytest.raises(NotFound):
        library.registry.resolve("kind")
    assert "code was run" not in capsys.readouterr().out


def test_a_base_and_a_task_must_be_named(library: Library, base: FrozenBase, base_folder: Path, tmp_path: Path) -> None:
    file = nemo(tmp_path / "m.nemo", base)
    with pytest.raises(PromptFileError, match="names no base that can be loaded; give it with --base"):
        import_prompt(library, file, task="kind")
    with pytest.raises(ConfigError, match=r"is of nemo, which names no task of ours; give one"):
        import_prompt(library, file, base=str(base_folder))
    with pytest.raises(BaseModelError):  # caikit's own name of the base, which is not here
        import_prompt(library, caikit(tmp_path / "c", base), task="kind")
    t5 = make_seq2seq("t5")
    t5.model.save_pretrained(tmp_path / "t5")
    t5.tokenizer.save_pretrained(tmp_path / "t5")
    with pytest.raises(PromptFileError, match="is a prompt for CAUSAL_LM, and t5 is SEQ_2_SEQ_LM"):
        import_prompt(library, file, task="kind", base=str(tmp_path / "t5"))


def test_several_at_once_are_named_after_their_files(
    library: Library, base: FrozenBase, base_folder: Path, tmp_path: Path
) -> None:
    sources = [nemo(tmp_path / "feel.nemo", base), caikit(tmp_path / "topic", base)]
    done = [*import_prompts(library, sources, base=str(base_folder), warn=lambda told: None)]
    assert [(one.task, one.error) for one in done] == [("feel", None), ("topic", None)]


def test_the_command(run: Run, base: FrozenBase, base_folder: Path, tmp_path: Path) -> None:
    file = nemo(tmp_path / "m.nemo", base)
    (row,) = run("import", file, "--task", "feel", "--base", base_folder, "--json").rows
    assert (row["task"], row["num_virtual_tokens"]) == ("feel", 4)
    (answer,) = run("predict", "feel", "red apple", "--json").rows
    assert answer["scores"] is None
    assert "names no task" in run("import", file, "--base", base_folder).refused()
