"""Tasks: what a prompt is tuned for. A task file, its rows, their wording, and all of it encoded for a base.

May import: `prompts`, `bases`, `rows`. Open `task.py` first.
"""
