"""The one error that files, folders and settings from outside may raise."""


class InputError(ValueError):
    """What was given is wrong: the message says in one line what, where, the value, and the fix."""
