"""Other ways to fit a base to a task beside ours, each on the same rows, within the same steps, judged alike."""
