"""Bases: the frozen models with their tokenizers, found, loaded, shrunk and named by a fingerprint.

May import: `errors`. Open `base.py` first.
"""
