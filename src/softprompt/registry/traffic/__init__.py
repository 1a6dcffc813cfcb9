"""What comes back of serving, in SQL: experiments and what clients say, what servers saw of rows, and rows to look at again.

May import: what `registry` may. Open `feedback.py` first.
"""
