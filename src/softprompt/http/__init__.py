"""The server: OpenAI's API over the library.

May import: `jobs`, `lifecycle`, `serving` and what is below them; never `training`. Open `app.py` first.
"""
