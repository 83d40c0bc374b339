"""An end without a word where who read the output has gone, as under `hf-proxy ... | head`."""

import os
import select
import sys

CLOSED_PIPE = 141  # what a shell says of a program that SIGPIPE ended: 128 + 13


def is_closed_pipe(error: BaseException | None) -> bool:
    """Whether this error is that nobody reads standard output any more.

    If so, standard output leads nowhere from here on: the interpreter flushes it once more at its
    end, and would say the same again.
    """
    if not isinstance(error, BrokenPipeError):
        return False
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):  # no file stands behind it
        return False
    # a socket of another library breaks with the same error
    poll = select.poll()
    poll.register(output, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)
    return True
