"""A user's mistake is one line on the error stream and exit code 2, never a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn the errors that bad input raises into one line and exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"circuit-lab: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from error
