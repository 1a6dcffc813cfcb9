"""The library: a registry and a store, kept true to each other. No torch.

May import: `registry`, `stores`, `tasks` and what is below them. Open `library.py` first.
"""
