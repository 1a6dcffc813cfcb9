"""A GGUF file is a base like any other: split or whole, quantised, with an adapter, trained on, moved, served."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import gguf
import peft
import pytest
import torch
import yaml

from softprompt.bases.base import FrozenBase
from softprompt.bases.files.locate import is_local, locate, two_forms
from softprompt.bases.folder import check_folder, check_options
from softprompt.bases.gguf.file import read_gguf
from softprompt.bases.options import BaseOptions
from softprompt.bases.quantization import Int8Linear
from softprompt.engines.continuous import ContinuousEngine
from softprompt.errors import BaseModelError, FingerprintMismatch
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.serving.which_base import choose_base
from softprompt.tasks.task import Task
from tests.bases.files.test_adapter import pytestmark  # noqa: F401
from tests.commands import Run
from tests.gguf_files import make_model, save_gguf, tensors_of
from tests.http_server import serving
from tests.models import some_prompt, tokenizer, weights_digest


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_what_is_shown_of_it(file: Path, run: Run) -> None:
    row = json.loads(run("base", "show", file, "--json").out)
    params = sum(weight.numel() for weight in make_model("llama").parameters())
    assert (row["base"], row["path"], row["context"], row["architecture"]) == (
        "tiny.gguf", str(file), 96, "LlamaForCausalLM"
    )  # fmt: skip
    assert (row["end_token"], row["begin_token"], row["params"]) == ("<end>", None, params)
    checked = json.loads(run("base", "verify", file, "--json").out)
    assert checked == {
        "base": str(file), "path": str(file), "fingerprint": row["fingerprint"], "bytes": file.stat().st_size, "ok": True
    }  # fmt: skip


def test_its_name_address_and_fingerprints(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    base = FrozenBase.load("tiny.gguf", device="cpu")
    assert (base.path, base.name, base.address, base.revision) == (file, "tiny.gguf", str(file), None)
    assert base.fingerprints == {base.fingerprint}
    assert is_local("tiny.gguf")
    assert is_local("gone.GGUF")


def split(whole: Path, folder: Path, parts: int) -> list[Path]:
    """The parts of a file, as `llama-gguf-split` writes them."""
    model = make_model("llama")
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "part.gguf", "llama", split_max_tensors=-(-len(read_gguf(whole).tensors) // parts))
    gguf_file = read_gguf(whole)
    for key, value in gguf_file.metadata.items():
        if key != "general.architecture":
            kind, inner = gguf_file.kinds[key]
            writer.add_key_value(key, value, gguf.GGUFValueType(kind), None if inner is None else gguf.GGUFValueType(inner))
    for name, tensor in tensors_of(model, "llama").items():
        writer.add_tensor(name, tensor.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("*.gguf"))


def test_all_parts_of_a_split_file_are_one_base(file: Path, tmp_path: Path) -> None:
    parts = split(file, tmp_path / "parts", 3)
    assert [part.name for part in parts] == [f"part-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    bases = [FrozenBase.load(str(part), device="cpu") for part in parts]
    assert {base.path for base in bases} == {parts[0]}
    assert {base.fingerprint for base in bases} == {bases[0].fingerprint}
    whole = FrozenBase.load(str(file), device="cpu")
    assert weights_digest(bases[0]) == weights_digest(whole)
    assert bases[0].fingerprint != whole.fingerprint

    with parts[2].open("r+b") as last:  # its bytes count too
        last.seek(-1, 2)
        last.write(b"\1")
    assert FrozenBase.load(str(parts[0]), device="cpu").fingerprint != whole.fingerprint


def test_a_part_that_is_not_there_or_another_one_is_told_by_name(file: Path, tmp_path: Path) -> None:
    parts = split(file, tmp_path / "parts", 3)
    parts[1].rename(tmp_path / "kept")
    for part in (parts[0], parts[2]):
        with pytest.raises(BaseModelError, match=r"one part of 3 .* and part-00002-of-00003\.gguf is not beside it"):
            check_options(BaseOptions(source=str(part)))
    parts[0].rename(tmp_path / "first")
    with pytest.raises(BaseModelError, match=r"and part-00001-of-00003\.gguf, part-00002-of-00003\.gguf are not beside it"):
        check_options(BaseOptions(source=str(parts[2])))
    shutil.copy(parts[2], tmp_path / "m-00007-of-00003.gguf")
    with pytest.raises(BaseModelError, match="is called a part of 3 that there is not"):
        check_options(BaseOptions(source=str(tmp_path / "m-00007-of-00003.gguf")))
    (tmp_path / "first").rename(parts[0])
    shutil.copy(parts[2], parts[1])
    with pytest.raises(BaseModelError, match=r"part-00002-of-00003\.gguf is not part 2 of 3, as it is called"):
        check_options(BaseOptions(source=str(parts[0])))
    shutil.copy(parts[0], tmp_path / "renamed.gguf")
    with pytest.raises(BaseModelError, match="is part 1 of 3 of a split GGUF file by what it says, and not by its name"):
        check_options(BaseOptions(source=str(tmp_path / "renamed.gguf")))


def test_a_file_is_known_by_its_bytes_whatever_it_is_called(file: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    blob = Path(shutil.copy(file, tmp_path / "blobs" / "0123abcd"))
    link = tmp_path / "model.gguf"
    link.symlink_to(blob)
    assert locate(str(link)) == link  # a link keeps its name
    assert FrozenBase.load(str(blob), device="cpu").fingerprint == FrozenBase.load(str(link), device="cpu").fingerprint


@pytest.mark.parametrize(
    ("kind", "stored"),
    [("Q8_0", "bfloat16"), ("Q4_0", "bfloat16"), ("F16", "float16"), ("BF16", "bfloat16"), ("F32", "float32")],
)
@torch.no_grad()
def test_quantised_weights_are_what_their_blocks_say(kind: str, stored: str, tmp_path: Path) -> None:
    number = gguf.GGMLQuantizationType[kind]
    base = FrozenBase.load(str(save_gguf(tmp_path / "m.gguf", kind=number)), device="cpu", dtype="float32")
    assert check_folder(tmp_path / "m.gguf", "m")["dtype"] == stored
    for name, weight in make_model("llama").named_parameters():
        if not name.endswith("norm.weight") and "self_attn.q" not in name and "self_attn.k" not in name:
            there_and_back = gguf.dequantize(gguf.quantize(weight.numpy(), number), number)
            assert torch.equal(base.model.get_parameter(name), torch.from_numpy(there_and_back)), name


def test_int8_is_made_of_the_files_numbers(file: Path) -> None:
    base = FrozenBase.load(str(file), device="cpu", dtype="float32", quantization="int8")
    wide = FrozenBase.load(str(file), device="cpu", dtype="float32")
    layer = base.model.get_submodule("model.layers.0.mlp.up_proj")
    assert isinstance(layer, Int8Linear)
    made = layer.weight.float() * layer.scale_N1
    torch.testing.assert_close(made, wide.model.get_submodule("model.layers.0.mlp.up_proj").weight, rtol=0.02, atol=0.02)
    assert torch.equal(base.embedding.weight, wide.embedding.weight)
    assert base.fingerprint == wide.fingerprint


def test_an_adapter_is_merged_into_it_and_counts(file: Path, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(make_model("llama"), config)
    model.save_pretrained(tmp_path / "lora")
    bare = FrozenBase.load(str(file), device="cpu", dtype="float32")
    base = FrozenBase.load(str(file), adapter=str(tmp_path / "lora"), device="cpu", dtype="float32")
    assert base.fingerprint != bare.fingerprint
    ids = torch.tensor([[5, 9, 30, 2, 40]])
    with torch.no_grad():
        torch.testing.assert_close(base.model(ids).logits, model.eval()(ids).logits, rtol=1e-4, atol=1e-4)


def task_file(folder: Path, base: str, **fields: Any) -> Path:
    rows = [{"text": f"{word} {n}", "label": label} for n in range(20) for word, label in (("red", "yes"), ("blue", "no"))]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = {"base": base, "data": "rows.jsonl", "labels": ["yes", "no"], "num_virtual_tokens": 4, "max_steps": 3}
    (folder / "mine.yaml").write_text(yaml.safe_dump(known | fields))
    return folder / "mine.yaml"


def test_a_task_is_trained_on_it_and_answers(file: Path, tmp_path: Path, run: Run, home: Path) -> None:
    shutil.copy(file, tmp_path / "beside.gguf")
    done = run("train", task_file(tmp_path, "beside.gguf"), "--json")  # beside the task file
    assert done.code == 0, done.err
    with Library.open(home) as library:
        version = library.registry.resolve("mine")
    assert version.base == str(tmp_path / "beside.gguf")
    assert version.card.base == "beside.gguf"
    assert run("predict", "mine", "red 1", "--json").code == 0
    assert run("evaluate", "mine", "--data", tmp_path / "rows.jsonl", "--json").code == 0

    (tmp_path / "beside.gguf").unlink()
    gone = run("predict", "mine", "red 1")
    assert (gone.code, "no such file any more" in " ".join(gone.err.split())) == (1, True)
    assert run("predict", "mine", "red 1", "--base", file, "--json").code == 0  # the fingerprint decides
    assert run("library", "rebind", file, "--yes", "--json").code == 0
    assert run("predict", "mine", "red 1", "--json").code == 0


def test_a_name_that_sounds_like_another_kind_is_no_reason_where_the_file_is_there(
    file: Path, tmp_path: Path, run: Run
) -> None:
    shutil.copy(file, tmp_path / "bart-like.gguf")
    done = run("train", task_file(tmp_path, "bart-like.gguf"), "--json")
    assert done.code == 0, done.err


def test_it_is_served_under_its_name(file: Path, tmp_path: Path) -> None:
    base = FrozenBase.load(str(file), device="cpu", dtype="float32")
    with Library.open(tmp_path / "home") as library:
        library.publish(some_prompt(base, "mine", metric="exact_match", max_new_tokens=4).to_bytes(), base=base.address)
        engine = ContinuousEngine(architecture_of(base))
        with serving(library, base, engine=engine) as server:
            client = server.client()
            assert {"tiny.gguf", "mine"} <= {model.id for model in client.models.list()}
            for model in ("tiny.gguf", "mine"):
                assert client.completions.create(model=model, prompt="red green", max_tokens=4).choices[0].text


def test_a_folder_of_the_same_model_is_another_base_and_that_is_said(
    file: Path, tmp_path: Path, run: Run, home: Path
) -> None:
    folder = tmp_path / "tiny"
    make_model("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    one, other = FrozenBase.load(str(file), device="cpu"), FrozenBase.load(str(folder), device="cpu")
    said = "a GGUF file and a folder of the same model are two bases"
    prompt = some_prompt(one, "mine")
    with pytest.raises(FingerprintMismatch, match=said):
        prompt.check_base(other)
    with Library.open(home) as library:
        library.publish(prompt.to_bytes(), base=one.address)
    refused = run("predict", "mine", "red 1", "--base", folder)
    assert said in " ".join(refused.err.split())


def test_what_is_exported_tells_how_transformers_opens_the_file(file: Path, tmp_path: Path, run: Run, home: Path) -> None:
    base = FrozenBase.load(str(file), device="cpu", dtype="float32")
    with Library.open(home) as library:
        library.publish(some_prompt(base, "mine", metric="exact_match").to_bytes(), base=base.address)
    assert run("export", "mine", tmp_path / "out", "--format", "peft").code == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "The base is a GGUF file" in text
    named: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], named)
    assert named["ids"]("red stone") == tokenizer()("red stone")["input_ids"]
    back = run("import", tmp_path / "out", "--task", "again", "--base", file, "--json")
    assert (back.code, "nothing in it proves" in back.err) == (0, False)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "org/model.gguf",
            "no file 'org/model.gguf'; give a GGUF file that is here (`hf download ID FILE.gguf` fetches one",
        ),
        (
            "https://host.example/org/model/m.gguf",
            "m.gguf' is a URL; give a hub id, or download the model and give its path",
        ),
        ("~nobody-of-this-name/m.gguf", "no file '~nobody-of-this-name/m.gguf'; give a GGUF file that is here"),
        ("rows.csv", "'rows.csv' is a file and no folder, and no GGUF file; give a folder with a saved model"),
        ("saved/tokenizer.json", "and no GGUF file; give the folder that it lies in, 'saved'"),
    ],
)
def test_a_name_of_which_there_is_no_file_is_told_with_what_to_do(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text,label\n")
    Path("saved").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (Path("saved") / name).write_text("{}")
    with pytest.raises(BaseModelError, match=re.escape(said)):
        check_options(BaseOptions(source=source))


def test_a_base_is_found_beside_its_task_file_whatever_its_path_looks_like(
    file: Path, tmp_path: Path, run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to the file with spaces and `..`, and from the user's home; what is to be typed again is quoted."""
    there, tasks = tmp_path / "my models" / "a (1).gguf", tmp_path / "my tasks" / "in"
    there.parent.mkdir()
    tasks.mkdir(parents=True)
    shutil.copy(file, there)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, base in (("up", "../../my models/a (1).gguf"), ("own", "~/my models/a (1).gguf")):
        assert run("train", task_file(tasks, base, task=name), "--json").code == 0
        with Library.open(home) as library:
            assert library.registry.resolve(name).base == str(there)
    moved = there.rename(there.with_name("b 2.gguf"))
    told = run("predict", "up", "red", "--base", moved)
    assert f"`softprompt library rebind '{moved}' --yes` has the new place remembered" in told.err


def test_what_lies_beside_a_task_file_is_meant_before_what_lies_here(
    file: Path, tmp_path: Path, run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with data, so that a task file means the same from everywhere."""
    there, here = tmp_path / "tasks", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()
        shutil.copy(file, folder / "m.gguf")
    save_gguf(here / "m.gguf", model=make_model("llama", seed=1))
    shutil.copy(file, here / "only-here.gguf")
    monkeypatch.chdir(here)
    for name, base in (("both", "m.gguf"), ("one", "only-here.gguf")):
        assert run("train", task_file(there, base, task=name), "--json").code == 0
    with Library.open(home) as library:
        bases = [library.registry.resolve(name).base for name in ("both", "one")]
    assert bases == [str(there / "m.gguf"), str(here / "only-here.gguf")]
    assert Task(folder=here, task="t", base="m.gguf").base_options.source == "m.gguf"  # as it is called, where that is it


def test_init_reads_the_tokenizer_of_a_file_and_unpacks_no_weights(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    template = (
        "{% for m in messages %}<user>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
    )
    save_gguf(tmp_path / "m.gguf", metadata={"tokenizer.chat_template": template})
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"red {n},yes\nblue {n},no\n" for n in range(20)))
    done = run("init", tmp_path / "rows.csv", "--base", "m.gguf", "--json")  # beside the table
    assert done.rows[0]["notes"][0] == "m.gguf has a chat template; --chat words the input in it"
    assert run("init", tmp_path / "rows.csv", "--base", "m.gguf", "--chat", "--force", "--json").code == 0
    assert yaml.safe_load((tmp_path / "rows.yaml").read_text())["input"] == "<user>{text}<end><model>"
    assert not (tmp_path / "cache" / "softprompt" / "gguf").exists()
    save_gguf(tmp_path / "m.gguf", metadata={"tokenizer.ggml.merges": ["a b c d"]})
    refused = run("init", tmp_path / "rows.csv", "--base", "m.gguf", "--chat", "--force").refused()
    assert "m.gguf' cannot be read: TypeError" in refused


def test_a_link_is_the_name_that_no_task_may_have(file: Path, tmp_path: Path, run: Run) -> None:
    """The file of a link may be called anything, as in the hub's cache."""
    link = tmp_path / "linked.gguf"
    link.symlink_to(file)
    assert run("train", task_file(tmp_path, str(link)), "--json").code == 0
    refused = run("train", task_file(tmp_path, "builtin/tiny", task="linked.gguf"), "--json").refused()
    assert "task 'linked.gguf' is refused: a base has that name" in refused


def test_a_prompt_file_is_bound_where_the_library_knows_its_base(file: Path, tmp_path: Path, run: Run, home: Path) -> None:
    base = FrozenBase.load(str(file), device="cpu", dtype="float32")
    prompt = tmp_path / "mine.safetensors"
    prompt.write_bytes(some_prompt(base, "mine", metric="exact_match").to_bytes())
    alone = run("import", prompt, "--task", "first", "--json")
    assert alone.rows[0]["base"] == "tiny.gguf"
    assert "names 'tiny.gguf' as its base, and nothing here tells where that is; give it with --base" in alone.err
    assert run("import", prompt, "--task", "named", "--base", file, "--json").rows[0]["base"] == str(file)
    known = run("import", prompt, "--task", "again", "--json")
    assert (known.rows[0]["base"], "nothing here tells" in known.err) == (str(file), False)
    with Library.open(home) as library:  # of a base's addresses one is served at which it is
        for task in ("more", "most", "much"):
            library.publish(some_prompt(base, task, metric="exact_match").to_bytes(), base="tiny.gguf")
        assert choose_base(library) == (str(file), None)


def test_it_is_said_of_two_forms_alone() -> None:
    assert two_forms("a.gguf", "org/a")
    assert two_forms("/models/a", "/models/a.gguf")
    for one, other in (("a.gguf", "b.gguf"), ("a", "b"), ("a.gguf", "builtin/tiny")):
        assert two_forms(one, other) == ""


def test_the_file_to_give_is_named_where_its_folder_is_given(file: Path, tmp_path: Path) -> None:
    shutil.copy(file, tmp_path / "m.gguf")
    with pytest.raises(BaseModelError, match=re.escape(f"it holds a GGUF file; give that file, '{tmp_path / 'm.gguf'}'")):
        check_options(BaseOptions(source=str(tmp_path)))
    shutil.copy(file, tmp_path / "n.gguf")
    with pytest.raises(BaseModelError, match=re.escape("it holds 2 GGUF files (m.gguf, n.gguf); give one of these files")):
        check_options(BaseOptions(source=str(tmp_path)))
