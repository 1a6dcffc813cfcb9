"""Evaluation: metrics, trials of prompts, and versions of the library judged on rows and by suites.

May import: `engines`, `library`, `tasks` and what is below them. Open `evaluate.py` first.
"""
