"""Exchange: the forms in which other programs read and write prompts. PEFT's folder both ways, and our one file.

May import: `library`, `model`, `tasks`, `prompts`, `bases` and what is below them. Open `importing.py` first.
"""
