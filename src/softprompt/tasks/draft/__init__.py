"""Drafts: a first task file for a table that nobody has looked at yet.

May import what the room above may, and all of tasks. Open `draft.py` first.
"""
