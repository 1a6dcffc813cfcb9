"""`python -m softprompt`: the command `softprompt`, of the Python that runs it."""

from softprompt.cli import main

if __name__ == "__main__":
    main()
