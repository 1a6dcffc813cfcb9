"""Wording: how the fields of a row become an input's text, whatever its answer: a template, the base's chat, a conversation.

May import what the room above may, and no other room of tasks. Open `template.py` first.
"""
