"""Tasks: what a prompt is tuned for. A task file, its rows, their wording, and all of it encoded for a base.

`config/` is what a task file says, `wording/` how a row becomes an input, `answers/` which answers there are, `form.py` both
of these together; `draft/` proposes a task file. May import: `prompts`, `bases`, `rows`. Open `task.py` first.
"""
