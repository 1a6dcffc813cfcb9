"""Why a prompt does not do what it should: what shows in a version, a run, the rows of a task, and with the base at hand.

Open `diagnose.py` first.
"""
