"""`python -m softprompt.cli`: for launchers that start modules, as is `python -m softprompt`."""

from softprompt.cli import main

main()
