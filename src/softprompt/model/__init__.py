"""The model: how rows behind soft prompts become logits. The one place that calls a base's forward pass.

May import: `bases`. Open `architecture.py` first.
"""
