"""What becomes of a task's prompts once they serve: prompts of users' own, compared on requests, and on the next base.

May import: `serving`, `training` and what is below them. Open `upgrade.py` first.
"""
