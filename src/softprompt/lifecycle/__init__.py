"""What becomes of a task's prompts once they serve: users' own, compared on requests, on the next base, and whether they
still fit.

May import: `training`, `serving` and what is below them. Open `upgrade.py` first.
"""
