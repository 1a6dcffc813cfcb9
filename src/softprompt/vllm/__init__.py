"""Prompts by name on a running vLLM: an outline of the base that it runs, an engine over its own, our routes beside its.

May import: `http` and what is below it. Open `middleware.py` first.
"""
