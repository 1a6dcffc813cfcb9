"""Suites that name a task of a harness that others wrote: it judges a served version, and what it finds of each row is kept
as a suite's own outcome is. No harness is imported; its program is run.

Open `run.py` first.
"""
