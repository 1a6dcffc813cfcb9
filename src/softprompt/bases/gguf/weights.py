"""The weights of a GGUF file in one safetensors file, tensor by tensor: never more than one of them is wide at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from softprompt.bases.gguf.file import GgufFile
from softprompt.bases.gguf.numbers import read_numbers, read_rows
from softprompt.errors import BaseModelError

_SAFETENSORS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_LARGE = ("token_embd.weight", "output.weight")
"""The embedding and the head, as large as many layers, which nothing is done to. A row of them may be of no use, which is
told where a text would use it."""
_NO_WEIGHTS = ("rope_freqs.weight",)
"""Tensors that are read with the config."""


def write_weights(gguf: GgufFile, model: Any, file: Path, dtype: torch.dtype, source: str) -> None:
    """Write all weights of a model, under transformers' names and in one dtype.

    Args:
        gguf: where they are.
        model: the model that they are for, on the meta device.
        file: what is written.
        dtype: of all of them.
        source: what the user calls the GGUF file.

    Raises:
        BaseModelError: a weight is not there, has another shape, is of no use in the model, or holds NaN or infinity.
        OSError: the file cannot be written.
    """
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor = TENSOR_PROCESSORS.get(gguf.architecture, TensorProcessor)(config=model.config.to_dict())
    tensors = [tensor for tensor in gguf.tensors if tensor.name not in _NO_WEIGHTS]
    # Of the whole model first: to ask each of its modules takes long, and few architectures need it.
    whole = SimpleNamespace(config=model.config, state_dict=model.state_dict, named_children=dict)
    names = _with_experts(get_gguf_hf_weights_map(whole, processor))
    if any(tensor.name not in names for tensor in tensors):
        names = _with_experts(get_gguf_hf_weights_map(model, processor))
    unknown = [tensor.name for tensor in tensors if tensor.name not in names]
    if unknown:
        raise BaseModelError(
            f"{source!r} has {len(unknown)} tensors that {type(model).__name__} has no place for, {unknown[0]!r} among "
            "them, and would compute something else without; give the model as transformers saves it"
        )
    with _Writer(file, model, dtype, source) as writer:
        parts = Counter(names[tensor.name] for tensor in tensors)  # experts are joined, two tensors of the file in one
        joined: dict[str, torch.Tensor] = {}
        for tensor in tensors:
            name = names[tensor.name]
            if tensor.name in _LARGE:
                rows = (torch.from_numpy(part) for part in read_rows(tensor))
                writer.write(name, tensor.shape, rows, finite=False)
                continue
            found = processor.process(
                weights=read_numbers(tensor), name=tensor.name, tensor_key_mapping=names,
                parsed_parameters={"tensors": joined},
            )  # fmt: skip
            parts[name] -= 1
            if found.name is not None:
                made = torch.from_numpy(found.weights)
            elif parts[name] == 0:
                made = joined.pop(name)
            else:
                continue
            writer.write(name, tuple(made.shape), [made])
            del made, found


def _with_experts(names: dict[str, str]) -> dict[str, str]:
    """Names of the file's tensors, those of experts among them, which transformers knows without their `.weight`."""
    return names | {f"{name}.weight": target for name, target in names.items() if name.endswith("_exps")}


class _Writer:
    """A safetensors file whose places are known before its tensors."""

    def __init__(self, file: Path, model: Any, dtype: torch.dtype, source: str) -> None:
        self.dtype, self.source = dtype, source
        self.shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
        kept = model.state_dict().keys()
        self.shapes |= {name: tuple(value.shape) for name, value in model.named_buffers() if name in kept}
        self.places: dict[str, int] = {}
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, shape in self.shapes.items():
            end = at + torch.Size(shape).numel() * dtype.itemsize
            header[name] = {"dtype": _SAFETENSORS[dtype], "shape": list(shape), "data_offsets": [at, end]}
            self.places[name], at = at, end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.base = 8 + len(text)
        self.handle = file.open("xb")
        self.handle.write(len(text).to_bytes(8, "little") + text)
        self.handle.truncate(self.base + at)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.handle.close()
        if kind is None and self.places:
            name = next(iter(self.places))
            raise BaseModelError(
                f"{self.source!r} lacks {len(self.places)} weights, {name!r} among them; fetch it again, whole"
            )

    def write(self, name: str, shape: tuple[int, ...], parts: Iterable[torch.Tensor], *, finite: bool = True) -> None:
        """Write one tensor, given in parts end to end."""
        if shape != self.shapes.get(name) or name not in self.places:
            raise BaseModelError(
                f"{self.source!r} has the weight {name!r} in the shape {shape}, and its config asks for "
                f"{self.shapes.get(name)}; convert the model again"
            )
        self.handle.seek(self.base + self.places.pop(name))
        for part in parts:
            stored = part.to(self.dtype).contiguous()
            if finite and not torch.isfinite(part).all():
                raise BaseModelError(
                    f"the weight {name!r} of {self.source!r} holds NaN or infinity; fetch it again, or convert the model "
                    "again"
                )
            if finite and not torch.isfinite(stored).all():
                raise BaseModelError(
                    f"the weight {name!r} of {self.source!r} holds numbers too large for {str(self.dtype)[6:]}; give "
                    "--dtype bfloat16"
                )
            self.handle.write(stored.view(-1).view(torch.uint8).numpy().data)
