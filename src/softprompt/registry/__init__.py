"""The registry: tasks, numbered versions, aliases, tags, audit and keys, in SQL and nothing else. No torch.

May import: `prompts` (cards alone). Open `registry.py` first.
"""
