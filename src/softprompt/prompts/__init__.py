"""Soft prompts: the matrix, its card, the file that carries both, and where vectors start.

May import: `bases`. Cards and files need no torch. Open `prompt.py` first.
"""
