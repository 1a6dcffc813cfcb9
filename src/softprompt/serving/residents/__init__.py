"""Residents: prompts in memory, ready to serve, for all tenants of a library, and kept true to its registry.

May import what the room above may, and nothing else of serving. Open `residents.py` first.
"""
