"""Routing: which prompt a request gets where its model leaves that open: `auto`, a user's own, a version of an experiment.

May import what the room above may, and `serving/residents/`. Open `router.py` first.
"""
