"""The one exception for bad input."""


class UserError(ValueError):
    """Bad input: one clear line that says what was wrong and what would be right (exit code 2)."""
