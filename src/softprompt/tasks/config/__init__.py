"""What a task file says: its keys, what each may hold, and what is told of each fault.

May import what the room above may, and `tasks/answers/`. Open `config.py` first.
"""
