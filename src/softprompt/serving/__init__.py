"""Serving: names of tasks to answers. Imports nothing of training."""
