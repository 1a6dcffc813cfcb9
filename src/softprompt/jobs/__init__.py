"""Training for others: uploaded files, jobs that train from them, and the worker that runs the jobs.

May import: `training` and what is below it. Open `jobs.py` first.
"""
