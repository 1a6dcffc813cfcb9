"""The kinds of models, one file each, behind the interface of `model/architecture.py`. Open `causal.py` first: it has the
shared prefix and the lines; `unshared.py` is what those with an encoder stand on."""
