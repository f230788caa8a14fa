"""What the user can put right, and an end on request; all else that is raised is our mistake or the machine's."""

import signal

from hpa_ray.redact import redact


class InputError(ValueError):
    """The user's input is wrong: the message says what, where and what to do, in one line each; exit code 2.

    It holds no secret from its birth: it is printed, stored, and logged by Ray.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(map(redact, problems))
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, ...]]:  # must survive the way from a Ray worker
        return (type(self), self.problems)


class Stopped(SystemExit):
    """The machine wanted this process to end; the run goes on from where it was when it is resumed."""

    def __init__(self, reason: str) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason
