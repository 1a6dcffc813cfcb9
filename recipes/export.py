"""Turns the last checkpoint into the built-in base: bf16 safetensors, config, tokenizer, model card.

python recipes/export.py
"""

import argparse
import json
from pathlib import Path

import torch
from pretrain import CHECKPOINT, CONFIG, WORK, new_model
from tokenizer import check_tokenizer, save_tokenizer
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

TARGET = Path(__file__).resolve().parent.parent / "src" / "softprompt" / "bases" / "builtin" / "tiny"
LARGEST = 15_900_000


def export(target: Path) -> dict[str, float]:
    """Writes the files and loads them again; the figures of the run."""
    state = torch.load(CHECKPOINT, weights_only=True)
    model = new_model()
    model.load_state_dict(state["optimisers"]["model"])
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=1)
    target.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(target)
    save_tokenizer(Tokenizer.from_file(str(WORK / "tokenizer.json")), target, CONFIG["max_position_embeddings"])
    (target / "model.safetensors").chmod(0o644)
    size = (target / "model.safetensors").stat().st_size
    if size > LARGEST:
        raise ValueError(f"model.safetensors has {size:,} bytes, more than {LARGEST:,}")
    return {
        "params": sum(p.numel() for p in model.parameters()),
        "bytes": size,
        "tokens": state["tokens"],
        "steps": state["step"],
        "loss": round(state["loss"], 3),
        "minutes": round(state["elapsed"] / 60, 1),
    }


def check(target: Path) -> None:
    """Loads the files in both precisions and lets the tokenizer bring odd text back."""
    tokenizer = AutoTokenizer.from_pretrained(target)
    check_tokenizer(tokenizer)
    ids = torch.tensor([tokenizer("The opposite of good is")["input_ids"]])
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(target, dtype=dtype).eval()
        with torch.no_grad():
            logits = model(ids).logits
        if not torch.isfinite(logits).all():
            raise ValueError(f"logits in {dtype} are not finite")


def main() -> None:
    """Exports and checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=Path, default=TARGET)
    args = parser.parse_args()
    figures = export(args.target)
    check(args.target)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
