"""GGUF files, the form in which llama.cpp keeps models: read, checked, and made into a folder that is loaded as any other.

`file.py` is the format, `check.py` says which files make a base, `config.py`, `tokenizer.py` and `weights.py` make the parts
of a folder, and `cache.py` keeps that. May import: `architectures` of the room above, `errors`, `files`, `locks`.
Open `cache.py` first.
"""
