"""Training: many soft prompts at once on one frozen base.

May import: `evaluation`, `library` and what is below them; never `serving`. Open `session.py` first.
"""
