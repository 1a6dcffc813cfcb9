"""Runs, and the steps that they take together. Open `loop.py` first: it takes a step of all that run; `forward.py` makes
losses and gradients, `bank.py` updates the prompts."""
