"""Rows of data, whatever holds them: tables of every kind, the hub, memory; and the text of a value. No torch.

May import: `text` and `errors`. Open `tables.py` first.
"""
