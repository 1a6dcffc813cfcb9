"""Bases: the frozen models with their tokenizers, found, loaded, shrunk and named by a fingerprint.

May import: `errors`, `files`, `locks`. Open `base.py` first; `options.py` is what the rest of the package hands to it.
"""
