"""The files of a base: where they are, what they hold, and the fingerprint that they give. Open `locate.py` first."""
