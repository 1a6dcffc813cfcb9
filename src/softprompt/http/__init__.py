"""The server: OpenAI's API over the library. `app` holds the routes, `server` runs them."""
