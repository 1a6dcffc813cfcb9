"""Comparing: other ways to fit a base to a task beside ours, each on the same rows, within the same steps, judged alike.

May import: `training`, `evaluation`, `engines`, `model`, `tasks`, `bases` and what is below them; never the library.
Open `compare.py` first.
"""
