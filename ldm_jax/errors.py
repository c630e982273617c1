"""The exceptions that end a command in one line."""


class UserError(ValueError):
    """Bad input: one clear line that says what was wrong and what would be right (exit code 2)."""


class Interrupted(Exception):
    """A signal stopped the run, its state is saved. `exit_code` is 128 + the signal: 143 or 130."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number
