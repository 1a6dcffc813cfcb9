"""Suites: what a version must do, in a file of one's own; run row by row, kept with the version, and shown in a report card.

Open `suite.py` first for the file, `run.py` for what is done with it.
"""
