"""Tokens: prompts of a library as extra tokens of their base, for engines that know nothing of soft prompts.

`carried.py` says which prompts can go, `vocabulary.py` makes them tokens of a tokenizer, `table.py` rows of a model,
`wording.py` texts that place them, `gguf_file.py` does both to a GGUF file, and `readme.py` tells people. May import what
the room above may. Open `export.py` first.
"""
