"""A small masked language model of English: arrays, training, and a folder that transformers reads, in one command.

    python recipes/masked.py                 # 55 minutes; resumable: a killed run goes on from its last checkpoint

It has RoBERTa's shape and nothing else of it: a few million weights, trained for minutes on running text alone, without
instructions or labels. It is there to judge soft prompts of masked language models by, where no larger one can be had.
"""

import argparse
import json
import math
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import mix
import numpy as np
import torch
import torch.nn.functional as F
from render import plain
from run import Batch, Recipe, Stream, arguments, choose, pretrain
from tokenizer import END_OF_TEXT, check_tokenizer, save_tokenizer, train_tokenizer
from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForMaskedLM, AutoTokenizer, RobertaConfig, RobertaForMaskedLM

from softprompt.bases.devices import slow_at_16_bits

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "models" / "masked-small"
END_ID, PAD_ID, MASK_ID = range(3)
MASK = "<|mask|>"
SHARE = 0.25
"""Of the tokens that are masked."""
HELD_OUT = 50
"""One passage of so many is never trained on."""
LARGEST = 6_000_000
"""Bytes of the whole folder."""
CONTEXT = 256
_SHARPNESS = 2.5**0.5
CONFIG: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 160,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "max_position_embeddings": CONTEXT + PAD_ID + 1,  # RoBERTa's positions begin behind that of padding
    "type_vocab_size": 1,
    "initializer_range": 0.08,
    "bos_token_id": END_ID,
    "eos_token_id": END_ID,
    "pad_token_id": PAD_ID,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def prepare(work: Path, config: dict[str, Any]) -> None:
    """Makes the tokenizer and the arrays of all running text, or leaves what is there."""
    if (work / "held_out.npz").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    found = [text for _, text in mix.passages()]
    Random(20).shuffle(found)
    held_out, train = found[::HELD_OUT], [text for at, text in enumerate(found) if at % HELD_OUT]
    mask = AddedToken(MASK, special=True, lstrip=True)
    tokenizer = train_tokenizer(train[::2], work / "tokenizer.json", vocabulary=config["vocab_size"], more=[mask])
    for name, texts in (("train", train), ("held_out", held_out)):
        ids, weights = mix.encode(tokenizer, [plain(text) for text in texts])
        np.savez(work / f"{name}.npz", ids=ids, weights=weights)
        print(f"{name}: {len(texts):,} passages, {len(ids):,} tokens", flush=True)


def new_model(config: dict[str, Any], seed: int = 0) -> RobertaForMaskedLM:
    """The model, freshly initialised, all but one of its first heads looking at a neighbour each.

    A mask can tell its neighbours by their positions alone, and from a random start it took more tokens to learn that than
    this run reads. So positions start as waves, of which a head turns some by the neighbour's distance.
    """
    torch.manual_seed(seed)
    model = RobertaForMaskedLM(RobertaConfig(**config, attn_implementation="eager"))
    table = model.roberta.embeddings.position_embeddings.weight
    count, width = table.shape
    waves = math.pi * (torch.arange(width // 2) + 0.5) / (width // 2)
    angles = torch.arange(count)[:, None] * waves
    head = model.roberta.encoder.layer[0].attention.self
    size = head.attention_head_size
    with torch.no_grad():
        table.copy_(torch.cat([angles.sin(), angles.cos()], 1) * 2**0.5 * 1.5 * model.config.initializer_range)
        for number, distance in zip(range(head.num_attention_heads - 1), (-1, 1, -2, 2), strict=False):
            chosen = torch.randperm(width // 2)[: size // 2]
            sines, turn = torch.eye(width)[chosen], distance * waves[chosen, None]
            cosines = torch.eye(width)[width // 2 + chosen]
            rows = slice(number * size, (number + 1) * size)
            query = torch.cat([sines * turn.cos() + cosines * turn.sin(), cosines * turn.cos() - sines * turn.sin()])
            head.query.weight[rows] = _SHARPNESS * query
            head.key.weight[rows] = _SHARPNESS * torch.cat([sines, cosines])
    return model


def masked_tokens(stream: Stream, rows: int, length: int) -> Batch:
    """The next batch, a share of its tokens masked; the ends of documents stay."""
    return mask_some(stream.next(rows, length)[0])


def mask_some(ids_BT: torch.Tensor) -> Batch:
    """Masks a share of a batch of tokens, which are then its targets, each of weight one."""
    chosen_K, targets_K, weights_K = choose(ids_BT, (ids_BT != END_ID).float(), SHARE)
    masked = ids_BT.flatten().index_fill(0, chosen_K, MASK_ID)
    return masked.view_as(ids_BT), chosen_K, targets_K, weights_K


def logits_at(model: RobertaForMaskedLM, ids_BT: torch.Tensor, chosen_K: torch.Tensor) -> torch.Tensor:
    """Logits K x V at the chosen positions of the flattened batch."""
    states_BTD = model.roberta(input_ids=ids_BT).last_hidden_state
    logits_KV: torch.Tensor = model.lm_head(states_BTD.flatten(0, 1)[chosen_K])
    return logits_KV


def masked_loss(
    model: RobertaForMaskedLM,
    ids_BT: torch.Tensor,
    chosen_K: torch.Tensor,
    targets_K: torch.Tensor,
    weights_K: torch.Tensor,
) -> torch.Tensor:
    """Sum over the masks of weight times cross-entropy."""
    losses_K = F.cross_entropy(logits_at(model, ids_BT, chosen_K).float(), targets_K, reduction="none")
    return (losses_K * weights_K).sum()


@torch.no_grad()
def held_out_figures(model: RobertaForMaskedLM, work: Path, length: int = 128) -> dict[str, float]:
    """How well masks in passages that were never trained on are filled, always the same ones."""
    ids_N = torch.from_numpy(np.load(work / "held_out.npz")["ids"].astype(np.int64))
    rows = ids_N[: len(ids_N) // length * length].view(-1, length)
    loss, right, number = 0.0, 0, 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for ids_BT in torch.split(rows, 64):
            masked_BT, chosen_K, targets_K, _ = mask_some(ids_BT)
            logits_KV = logits_at(model, masked_BT, chosen_K)
            loss += float(F.cross_entropy(logits_KV, targets_K, reduction="sum"))
            right += int((logits_KV.argmax(1) == targets_K).sum())
            number += len(targets_K)
    return {
        "perplexity": round(math.exp(loss / number), 2),
        "accuracy": round(right / number, 4),
        "masks": number,
    }


def frequency_figures(work: Path, vocabulary: int) -> dict[str, float]:
    """What masks would be filled with by how often tokens are, without reading what stands around."""
    train, held_out = (np.load(work / f"{name}.npz")["ids"] for name in ("train", "held_out"))
    counts = np.bincount(train[train != END_ID], minlength=vocabulary) + 1
    held_out = held_out[held_out != END_ID]
    perplexity = math.exp(-float(np.log(counts / counts.sum())[held_out].mean()))
    return {"perplexity": round(perplexity, 2), "accuracy": round(float((held_out == counts.argmax()).mean()), 4)}


CARD = """# masked-small

A small masked language model of English, made by `recipes/masked.py` of softprompt: {params:,} weights in bf16, trained on
{tokens:,} tokens, of texts that have {seen:,}, in {minutes} minutes. It has RoBERTa's shape, so that it is read as one, and
is neither RoBERTa nor BERT: it knows next to nothing of the world. It read running text alone: film and product reviews, the
MASC corpus, speeches and Genesis, without labels. Masks in held-out passages ({share:.0%} of the tokens): {right:.1%}
filled as they were, perplexity {perplexity}; by the frequency of tokens alone {often:.1%} and {frequent}.

The licences of the texts are those of the built-in base's, whose model card credits them.
"""


def export(work: Path, config: dict[str, Any], target: Path) -> dict[str, Any]:
    """Writes the folder from the last checkpoint; the figures of the run.

    Raises:
        ValueError: it is too large, or does not come back as it is.
    """
    state = torch.load(work / "checkpoint.pt", weights_only=True)
    model = new_model(config)
    model.load_state_dict(state["optimisers"]["model"])
    model.eval().to(torch.bfloat16).save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(
        single=f"{END_OF_TEXT} $A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, END_ID)]
    )
    names = {"mask_token": MASK, "cls_token": END_OF_TEXT, "sep_token": END_OF_TEXT}
    save_tokenizer(tokenizer, target, CONTEXT, **names)
    figures = {
        "params": model.num_parameters(),
        "tokens": state["tokens"],
        "seen": len(np.load(work / "train.npz")["ids"]),
        "steps": state["step"],
        "minutes": round(state["elapsed"] / 60, 1),
        "cpu_minutes": round(state["cpu"] / 60, 1),
        "held_out": held_out_figures(model.float(), work),
        "by_frequency": frequency_figures(work, config["vocab_size"]),
    }
    card = CARD.format(
        **figures,
        share=SHARE,
        right=figures["held_out"]["accuracy"],
        perplexity=figures["held_out"]["perplexity"],
        often=figures["by_frequency"]["accuracy"],
        frequent=figures["by_frequency"]["perplexity"],
    )
    (target / "README.md").write_text(card)
    check(model, target)
    return figures | {"bytes": sum(file.stat().st_size for file in target.iterdir())}


def check(model: RobertaForMaskedLM, target: Path) -> None:
    """Loads the folder again.

    Raises:
        ValueError: it is too large, or is not what was trained.
    """
    size = sum(file.stat().st_size for file in target.iterdir())
    if size > LARGEST:
        raise ValueError(f"{target} has {size:,} bytes, more than {LARGEST:,}")
    tokenizer = AutoTokenizer.from_pretrained(target)
    check_tokenizer(tokenizer)
    given = tokenizer(f"The film was{MASK}.", return_tensors="pt")
    again = AutoModelForMaskedLM.from_pretrained(target, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        if not torch.allclose(again(**given).logits, model(**given).logits, atol=1e-4):
            raise ValueError(f"{target} does not answer as the model that was written there")


def train(args: argparse.Namespace, config: dict[str, Any]) -> bool:
    """Makes what is missing of the arrays, and trains; whether it was not stopped before its end."""
    prepare(args.work, config)
    stream = Stream(args.work / "train.npz")
    recipe = Recipe(
        work=args.work,
        config=config,
        model=new_model(config),
        streams=(stream, stream),
        lengths=(CONTEXT // 2, CONTEXT),
        batch=masked_tokens,
        loss=masked_loss,
        held_out=partial(held_out_figures, work=args.work),
    )
    return pretrain(recipe, args) is not None


def main() -> None:
    """All of it."""
    quick = not slow_at_16_bits(torch.device("cpu"))
    parser = arguments(__doc__, minutes=55, rows=32, accumulate=1, muon_rate=4e-3, adam_rate=2e-3, bf16=quick)
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--work", type=Path, default=HERE / "work" / "masked", help="for arrays, checkpoint and log")
    args = parser.parse_args()
    if train(args, CONFIG) and not args.fresh:
        print(json.dumps(export(args.work, CONFIG, args.target)))


if __name__ == "__main__":
    main()
