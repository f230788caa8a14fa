"""What the user can put right. Everything else that is raised is our mistake or the machine's."""


class InputError(ValueError):
    """The user's input is wrong: the message says what, where and what to do, in one line each; exit code 2."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, ...]]:  # must survive the way from a Ray worker
        return (type(self), self.problems)
