"""Engines: what runs the base. They get tensors and token ids, never names."""
