"""The console: pages for people over the library and the service, at `/console`. Open `pages.py` first.

Each family of pages is a file, and does what it does through the functions that the API and the commands use. `static/` has
htmx 2.0.11 (htmx.org, Zero-Clause BSD, its licence beside it) as it was published; nothing is built, and nothing is fetched.
"""
