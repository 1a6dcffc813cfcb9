"""What cannot be tokens is refused by name, and nothing is half-written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.bases.reading import quiet
from softprompt.errors import BaseModelError, ConfigError, FingerprintMismatch, LibraryError, NotFound, SoftPromptError
from softprompt.exchange.exporting import Format, export_prompt
from softprompt.exchange.hub import push
from softprompt.exchange.tokens import export as exporter
from softprompt.exchange.tokens.export import export_tokens
from softprompt.library.library import Library
from softprompt.prompts.prompt import SoftPrompt
from tests.exchange.tokens.exported import check_answers, library_of, used
from tests.models import make_masked, make_seq2seq, save_base, some_prefix, some_prompt, tokenizer


@pytest.fixture
def library(tmp_path: Path, base_folder: Path) -> Iterator[Library]:
    with library_of(tmp_path / "home", FrozenBase.load(str(base_folder)), base_folder) as library:
        yield library


def put(library: Library, prompt: SoftPrompt, base: Path) -> None:
    library.publish(prompt.to_bytes(), base=str(base))


def with_prefix(library: Library, base: Path) -> list[str]:
    put(library, some_prefix(FrozenBase.load(str(base)), "deep"), base)
    return ["words", "deep"]


def with_encoder_decoder(library: Library, base: Path) -> list[str]:
    put(library, some_prompt(make_seq2seq("t5"), "t5", task_type="SEQ_2_SEQ_LM"), base)
    return ["t5"]


def with_masked(library: Library, base: Path) -> list[str]:
    put(library, some_prompt(make_masked("bert"), "masked", task_type="MASKED_LM", labels=("yes", "no")), base)
    return ["masked"]


def with_ensemble(library: Library, base: Path) -> list[str]:
    prompt = some_prompt(FrozenBase.load(str(base)), "both", labels=("yes", "no"), members=(2, 3), format=2)
    put(library, prompt, base)
    return ["both"]


def with_other_base(library: Library, base: Path) -> list[str]:
    folder = base.parent / "another"
    with quiet():
        save_base(folder, seed=3)
    put(library, some_prompt(FrozenBase.load(str(folder)), "other"), folder)
    return ["words", "other"]


def with_mark(library: Library, base: Path) -> list[str]:
    put(library, some_prompt(FrozenBase.load(str(base)), "marked", input="<|words:0|> {text}"), base)
    return ["words", "marked"]


def with_conversation(library: Library, base: Path) -> list[str]:
    recipe = {"messages": "in the chat template"}
    put(library, some_prompt(FrozenBase.load(str(base)), "talks", input="{messages}", recipe=recipe), base)
    return ["words", "talks"]


def twice(library: Library, base: Path) -> list[str]:
    return ["words", "words@1"]


@pytest.mark.parametrize(
    ("refs", "kind", "message"),
    [
        (lambda *_: [], ConfigError, "no task is named"),
        (lambda *_: ["none"], NotFound, "none"),
        (twice, ConfigError, "words@1 and words@1 are of one task"),
        (with_prefix, ConfigError, "deep@1 is a prefix, which is keys and values at every layer"),
        (with_encoder_decoder, ConfigError, "t5@1 is for SEQ_2_SEQ_LM"),
        (with_masked, ConfigError, "masked@1 is for MASKED_LM"),
        (with_ensemble, ConfigError, "both@1 is an ensemble of 2 prompts"),
        (with_other_base, FingerprintMismatch, "words@1 is of base tiny-llama .* and other@1 of another"),
        (with_conversation, ConfigError, r"the input of talks@1 has \{messages\}, a conversation"),
        (with_mark, ConfigError, r"the template of marked@1 holds the text '<\|words:'"),
    ],
)
def test_what_is_no_token(
    library: Library, base_folder: Path, tmp_path: Path, refs: Callable[..., list[str]], kind: type[SoftPromptError],
    message: str,
) -> None:  # fmt: skip
    named = refs(library, base_folder)
    with pytest.raises(kind, match=message):
        export_tokens(library, named, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [*tmp_path.glob(".out*")] == []


def test_other_bases_and_ways_to_load_one(library: Library, other_folder: Path, tmp_path: Path) -> None:
    for base, kind, message in (
        (str(other_folder), FingerprintMismatch, "other-llama with fingerprint"),
        (str(tmp_path / "gone"), BaseModelError, "gone"),
        (BaseOptions(quantization="int8"), ConfigError, "quantization 'int8' is for running a base"),
        (BaseOptions(trust_remote_code=True), ConfigError, "is run by code of its own"),
        (BaseOptions(dtype="float8"), BaseModelError, "dtype 'float8' is unknown"),
    ):
        with pytest.raises(kind, match=message):
            export_tokens(library, ["words"], tmp_path / "out", base=base)
        assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="and no GGUF file; use --format tokens"):
        export_prompt(library, "words", tmp_path / "out", Format.GGUF)
    for form in (Format.TOKENS, Format.GGUF):
        with pytest.raises(ConfigError, match="makes a whole base, and push puts a prompt on the hub"):
            push(library, "words", "me/words", form=form)


def test_a_base_that_carries_tokens_takes_none_of_their_names(library: Library, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_tokens(library, ["words"], out)
    base = FrozenBase.load(str(out))
    put(library, some_prompt(base, "words", labels=None, metric="exact_match"), out)
    with pytest.raises(ConfigError, match=r"has a token '<\|words:0\|>' already"):
        export_tokens(library, ["words"], tmp_path / "again")
    put(library, some_prompt(base, "more", labels=None, metric="exact_match"), out)
    export_tokens(library, ["more"], tmp_path / "again")  # as a base it is one like any other
    with pytest.raises(FingerprintMismatch):
        export_tokens(library, ["words@1"], tmp_path / "third", base=str(out))


def test_a_tokenizer_with_tokens_beyond_the_rows(library: Library, tmp_path: Path) -> None:
    with quiet():
        folder = save_base(tmp_path / "base")
        words = transformers.AutoTokenizer.from_pretrained(folder)
        words.add_tokens(["<more>"])
        words.save_pretrained(folder)
    put(library, some_prompt(FrozenBase.load(str(folder)), "words"), folder)
    with pytest.raises(ConfigError, match="has 1 tokens more than its embedding has rows"):
        export_tokens(library, ["words"], tmp_path / "out")


class TwoTables(transformers.LlamaForCausalLM):
    """A model that looks each id up in a second table, too, as Gemma 3n does."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.second = torch.nn.Embedding(config.vocab_size, config.hidden_size)

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, **given: Any) -> Any:
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids) + self.second(input_ids)
        return super().forward(inputs_embeds=inputs_embeds, **given)


class Bent(transformers.LlamaForCausalLM):
    """A model that makes something else of ids than of their rows."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, **given: Any) -> Any:
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids) * 1.5
        return super().forward(inputs_embeds=inputs_embeds, **given)


@pytest.mark.parametrize(
    ("model", "message"),
    [(TwoTables, "does not run tokens beyond its own"), (Bent, "makes something else of tokens than of their vectors")],
)
def test_models_that_make_something_else_of_ids(
    library: Library, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: type, message: str
) -> None:
    load = FrozenBase.load

    def other(*given: Any, **more: Any) -> FrozenBase:
        base = load(*given, **more)
        base.model.__class__ = model
        if model is TwoTables:
            base.model.second = torch.nn.Embedding(len(base.embedding.weight), base.width)
        return base

    monkeypatch.setattr(exporter.FrozenBase, "load", other)
    with pytest.raises(BaseModelError, match=message):
        export_tokens(library, ["words"], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_a_tokenizer_that_no_text_places_a_prompt_in(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softprompt.exchange.tokens.vocabulary.JOINS", ("x",))
    with pytest.raises(ConfigError, match="spells the input of words@1 otherwise behind a token than alone"):
        export_tokens(library, ["words"], tmp_path / "out")


def test_folders_that_hold_something_else(library: Library, base_folder: Path, tmp_path: Path) -> None:
    with quiet():
        base = save_base(tmp_path / "base")
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    for force in (False, True):
        with pytest.raises(LibraryError, match="a base with tokens needs a folder of its own"):
            export_tokens(library, ["words"], base, force=force)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LibraryError, match="it is a file"):
        export_tokens(library, ["words"], tmp_path / "file")
    with pytest.raises(LibraryError, match="cannot write to"):
        export_tokens(library, ["words"], tmp_path / "file" / "out")
    export_tokens(library, ["words"], tmp_path / "out")
    with pytest.raises(LibraryError, match="holds a base"):  # and a prompt is not laid into an export
        export_prompt(library, "words", tmp_path / "out")


def test_an_earlier_export_is_replaced_whole_and_no_task_is_lost_unasked(library: Library, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_tokens(library, ["words", "kind", "pair"], out)
    with pytest.raises(LibraryError, match="holds an export of kind, pair, which would go"):
        export_tokens(library, ["words"], out)
    done = export_tokens(library, ["words"], out, force=True)
    assert done.replaced == ("kind", "pair")
    assert [*used(out)["known"]["tasks"]] == ["words"]
    assert export_tokens(library, ["words", "kind", "pair"], out).replaced == ()
    check_answers(used(out), library)


def test_what_fails_midway_leaves_what_was_there(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    export_tokens(library, ["words"], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*given: Any, **more: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporter, "readme_of", full)
    with pytest.raises(LibraryError, match="No space left on device"):
        export_tokens(library, ["words", "kind"], out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(LibraryError, match="No space left on device"):
        export_tokens(library, ["words", "kind"], tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_others_put_beside_an_export_is_not_lost(library: Library, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_tokens(library, ["words"], out)
    export_tokens(library, ["words"], out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(LibraryError, match=r"holds notes.txt beside an export, which would go; take it elsewhere"):
        export_tokens(library, ["words"], out)
    assert (out / "notes.txt").read_text() == "mine"
    export_tokens(library, ["words"], out, force=True)
    assert not (out / "notes.txt").exists()


def test_what_is_stopped_while_it_takes_its_place_puts_the_old_one_back(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export_tokens(library, ["words"], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    rename, stopped = Path.rename, iter([False, True, False])

    def stop(path: Path, target: Path) -> Path:
        if next(stopped):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        export_tokens(library, ["words", "kind"], out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_base_in_memory_and_on_disk_is_untouched(library: Library, base_folder: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in base_folder.iterdir()}
    export_tokens(library, ["words"], tmp_path / "out")
    assert {path.name: path.read_bytes() for path in base_folder.iterdir()} == before
    assert len(tokenizer()) == 320
