"""Serving: names of tasks to answers, in this process or for a server.

`residents/` are the prompts in memory, `routing/` chooses among them, `decisions/` answers questions, and `targets.py` says
what a request's model means.

May import: `evaluation`, `library`, `engines` and what is below them; never `training`. Open `service.py` first.
"""
