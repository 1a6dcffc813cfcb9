"""Whether what a prompt is asked still looks like what it was tuned for: looked at by a command, and watched by servers.

Open `drift.py` first for a look, `watch.py` for what a server does.
"""
