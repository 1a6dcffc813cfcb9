"""The buffer of running rows' keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from softprompt.engines.kv_buffer import KeysValues, KVBuffer

SHAPES = [((2, 4), (2, 6)), ((1, 8), (1, 8)), ((2, 4), (2, 4))]
"""Heads and width of each layer's keys and values: layers that differ, and keys unlike values."""


def some_layers(length: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(h, length, d, generator=generator), torch.randn(i, length, e, generator=generator))
        for (h, d), (i, e) in SHAPES
    ]


def fill(columns: KVBuffer, prompts: Sequence[KeysValues], inputs: Sequence[int]) -> None:
    """Enter rows and write ones where a pass would write its keys and values."""
    cache, _ = columns.enter(prompts, inputs, None)
    write(cache, len(prompts), max(inputs))


def write(cache: object, rows: int, width: int) -> None:
    for layer, ((h, d), (i, e)) in zip(cache.layers, SHAPES, strict=True):  # type: ignore[attr-defined]
        layer.update(torch.ones(rows, h, width, d), torch.ones(rows, i, width, e))


def test_layers_come_out_as_they_went_in() -> None:
    layers = some_layers(5, 0)
    packed = KeysValues.pack(layers)
    assert len(packed) == 5
    assert len(packed.stacks) == 3  # one for each shape
    assert packed.bytes == sum(keys.nbytes + values.nbytes for keys, values in layers)
    for cut, length in ((packed, 5), (packed.cut(2), 2), (packed.cut(0), 0)):
        for (keys, values), (held_keys, held_values) in zip(layers, cut.layers, strict=True):
            assert torch.equal(keys[:, :length], held_keys)
            assert torch.equal(values[:, :length], held_values)


def test_rows_of_uneven_layers_keep_their_own_over_steps_and_leaving() -> None:
    prompts = [some_layers(length, length) for length in (3, 7, 1)]
    packed = [KeysValues.pack(layers) for layers in prompts]
    columns = KVBuffer(packed[0].cut(0))
    fill(columns, packed, [2, 2, 2])
    cache, mask_BS = columns.step()
    write(cache, 3, 1)
    assert columns.leave([0]) == [2, 1]
    cache, mask_BS = columns.step()
    for row, layers in enumerate([prompts[2], prompts[1]]):
        length = layers[0][0].shape[1]
        assert int(mask_BS[row].sum()) == length + 2 + 1 + 1
        for layer, (keys, values) in zip(cache.layers, layers, strict=True):
            start = mask_BS.shape[1] - int(mask_BS[row].sum())
            assert torch.equal(layer.keys[row, :, start : start + length], keys)
            assert torch.equal(layer.values[row, :, start : start + length], values)
            assert bool((layer.keys[row, :, start + length : -1] == 1).all())


def test_a_large_buffer_is_given_back_when_the_last_row_leaves() -> None:
    prompt = KeysValues.pack(some_layers(4, 1))
    for bound, kept in ((1 << 20, True), (64, False)):
        columns = KVBuffer(prompt.cut(0), idle_bytes=bound)
        fill(columns, [prompt, prompt], [3, 3])
        held = columns.bytes
        assert 64 < held < 1 << 20
        columns.leave([0])
        assert columns.bytes == held  # a row is left
        columns.leave([0])
        assert columns.bytes == (held if kept else 0)
        fill(columns, [prompt], [2])  # and it goes on
        assert columns.bytes > 0
        cache, mask_BS = columns.step()
        assert mask_BS.tolist() == [[True] * 7]
        for layer, (keys, _) in zip(cache.layers, prompt.layers, strict=True):
            assert torch.equal(layer.keys[0, :, :4], keys)
