"""`python -m softprompt.cli`: for launchers that start modules."""

from softprompt.cli import main

main()
