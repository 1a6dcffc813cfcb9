"""What a look inside prompts finds beside what one of them lies near: attention, likeness, and the page that draws them.

Open `likeness.py` first.
"""
