"""Routes, a file for each family: a body that is checked, what the service is asked, an answer in OpenAI's shape.

May import what the room above may, and its files but for `app.py` and `server.py`, which put routes together; nothing of
`http/console/`. Open `completions.py` first.
"""
