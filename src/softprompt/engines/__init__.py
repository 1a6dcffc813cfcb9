"""Engines: what runs a base for rows of different prompts. They get tensors and token ids, never names.

May import: `model` and what is below it. Open `protocol.py` first.
"""
