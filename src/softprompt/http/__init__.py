"""The server: OpenAI's API over the library.

`routes/` has the families of routes, `console/` pages for people; beside them stands what every request goes through, and
what puts the server together.

May import: `jobs`, `lifecycle`, `serving` and what is below them; never `training`. Open `app.py` first.
"""
