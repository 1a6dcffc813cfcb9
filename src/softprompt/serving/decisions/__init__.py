"""Decisions: questions about one input, answered by a tuned prompt's labels, or by the base that was never tuned for them.

Imports what `serving` may. Open `decide.py` first.
"""
