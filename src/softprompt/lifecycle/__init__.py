"""What becomes of a task's prompts once they serve: prompts of users' own, and on the next base.

May import: `training` and what is below it; never `serving`. Open `upgrade.py` first.
"""
