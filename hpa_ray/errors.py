"""What the user can put right. Everything else that is raised is our mistake or the machine's."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """The user's input is wrong: the message says what, where and what to do, in one line each; exit code 2."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, ...]]:  # must survive the way from a Ray worker
        return (type(self), self.problems)


@contextmanager
def disk_full_told(key: str, output: str) -> Iterator[None]:
    """Say it plainly when the disk is full, for work that goes on where it was; `key`: what names the place."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{key} = {output}: no space left on the disk - free some and run the same command again, "
            "it goes on where it was"
        ) from error
