"""Serving: names of tasks to answers, in this process or for a server.

May import: `evaluation`, `library`, `engines` and what is below them; never `training`. Open `service.py` first.
"""
