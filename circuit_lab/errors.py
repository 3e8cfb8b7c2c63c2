"""The one error that files, folders and settings from outside may raise, and values in its messages."""


class InputError(ValueError):
    """What was given is wrong: the message says in one line what, where, the value, and the fix."""


def short(value: object, length: int = 300) -> str:
    """A value in one line of bounded length, text and errors as they read, all else as Python writes it.

    Args:
        value: The value.
        length: Characters at most, before dots say that there are more.

    Returns:
        The line.

    >>> short("two  words"), short([1, 2, 3], 5)
    ('two words', '[1, 2...')
    """
    text = " ".join((str(value) if isinstance(value, str | Exception) else repr(value)).split())
    return text if len(text) <= length else f"{text[:length]}..."


def quoted(value: object) -> str:
    """A value as Python writes it, at most 120 characters.

    Args:
        value: The value.

    Returns:
        The words, cut short if need be.

    >>> quoted("<e_1>"), len(quoted("x" * 500))
    ("'<e_1>'", 120)
    """
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
