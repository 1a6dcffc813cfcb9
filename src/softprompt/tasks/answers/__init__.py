"""Answers: which there are, how rows have them, how the base is asked for one, and what its scores or its text say.

May import what the room above may, and the words of `tasks/wording/`. Open `answering.py` first.
"""
