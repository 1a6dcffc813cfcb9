"""What becomes of a task's prompts once they serve: prompts of users' own.

May import: `training` and what is below it; never `serving`. Open `personalize.py` first.
"""
