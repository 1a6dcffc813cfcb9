"""The command line: one thin file per noun, assembled in `app`. Nothing heavy is imported before a command runs.

May import: `compare`, `demo`, `deploy`, `doctor`, `exchange`, `http`, `lifecycle`, `vllm` and what is below
them. Open `app.py` first.
"""

from __future__ import annotations

import os
import signal
import sys

BUG_EXIT = 70
"""Exit status of an error that nobody foresaw (EX_SOFTWARE of sysexits.h)."""


def main() -> None:
    """Run the command line.

    Exit status: 0 done, 1 an error with its message on stderr, 2 wrong usage, 70 a bug, 130 interrupted (Ctrl-C), 143 told
    to end (SIGTERM).
    """
    from softprompt.cli.app import app
    from softprompt.errors import SoftPromptError, TrainingStopped

    if os.getpid() == 1:  # of a container: the kernel drops what process 1 does not handle, so that nothing could end it
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        _let_go_of_stdout()  # the reader has gone: `| head`
        sys.exit(1)
    except Exception as error:
        if os.environ.get("SOFTPROMPT_DEBUG"):
            raise
        status, message = 1, str(error)
        if isinstance(error, OSError):
            named = f" ({error.filename!r})" if error.filename else ""
            message = f"the system refuses: {error.strerror or error}{named}; mend that and run the command again"
        elif isinstance(error, TrainingStopped) and error.number is not None:
            status = 128 + error.number
        elif not isinstance(error, SoftPromptError):
            status = BUG_EXIT
            message = (
                f"this is a bug in softprompt: {type(error).__name__}: {error}; "
                "run again with SOFTPROMPT_DEBUG=1 for the traceback and report it"
            )
        from softprompt.cli.output import tell

        tell(" ".join(f"error: {message}".splitlines()))
        if isinstance(error, OSError):
            _let_go_of_stdout()
        sys.exit(status)


def _let_go_of_stdout() -> None:
    """Where stdout takes nothing any more, drop what is left for it: Python would complain once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
