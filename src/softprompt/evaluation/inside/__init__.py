"""A look inside prompts: what their vectors lie near and which matter, attention, likeness, and the page that draws it.

Open `look_inside.py` first.
"""
