"""What the user can put right. Everything else that is raised is our mistake or the machine's."""

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
