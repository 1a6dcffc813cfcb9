"""What becomes of a task's prompts once they serve: personal versions of them. May import training, serving's neighbours
below it and the library; not HTTP, which never trains. Open `personalize.py` first."""
