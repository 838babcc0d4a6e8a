"""What a task raises that is no ``Exception``, as one."""

from __future__ import annotations

import traceback

__all__ = ("ordinary",)


def ordinary(error: BaseException) -> Exception:
    """An exception as one that ends an attempt and nothing else.

    ``sys.exit()`` in a task would end its worker, and with it the jobs of all the others; what else is no
    ``Exception`` would get past everything that settles a job. Whatever it is, the task's retry policy decides.
    """
    if isinstance(error, Exception):
        return error
    # Not str(error), which is the task's code and may raise.
    said = traceback.format_exception_only(error)[0].strip()
    made = RuntimeError(f"the task raised {said}")
    made.__cause__ = error
    return made
