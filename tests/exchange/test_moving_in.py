"""The guide for those who move in: its commands run in order, on files as the other tools save them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import peft
import pytest
import torch
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.bases.reading import quiet
from tests.commands import Run
from tests.exchange.test_elsewhere import caikit, nemo, vectors
from tests.models import save_base
from tests.test_docs_run import Block, blocks_of, lines_of

PAGE = Path(__file__).parent.parent.parent / "docs" / "moving_in.md"


def files_of_others(place: Path) -> None:
    with quiet():
        base = FrozenBase.load(str(save_base(place / "base")))
        model = transformers.AutoModelForCausalLM.from_pretrained(place / "base")
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, base_model_name_or_path=str(place / "base")
    )
    peft.get_peft_model(model, config).save_pretrained(place / "peft-adapter")
    (place / "vllm-adapter").mkdir()
    torch.save({"prompt_embeddings": vectors(base)}, place / "vllm-adapter" / "adapter_model.bin")
    told = {
        "num_virtual_tokens": 4,
        "peft_type": "PROMPT_TUNING",
        "base_model_name_or_path": "this-is-a/temporary-conversion",
    }
    (place / "vllm-adapter" / "adapter_config.json").write_text(json.dumps(told))
    caikit(place / "caikit-prompt", base)
    nemo(place / "sentiment.nemo", base)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_its_commands_run_as_they_stand(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files_of_others(tmp_path)
    blocks: list[Block] = [block for block in blocks_of(PAGE) if block.language == "console"]
    assert {block.heading for block in blocks} >= {"From PEFT", "From NeMo", "Out to any engine"}
    for block in blocks:
        for line in lines_of(block):
            program, *arguments = shlex.split(line)
            assert program == "softprompt"
            done = run(*arguments)
            assert done.code == 0, f"{line}: {done.err}"
    rows = {row["task"]: row for row in run("list", "--json").rows}
    assert set(rows) == {"topic", "kind", "summary", "complaint", "sentiment"}
    told = json.loads((tmp_path / "base-with-tokens" / "softprompt_tokens.json").read_text())
    assert [*told["tasks"]] == ["sentiment", "complaint"]
