"""A user's mistake is one line on the error stream and exit code 2, never a traceback; a warning is one line there."""

import warnings
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


@contextmanager
def user_warnings() -> Iterator[None]:
    """Show our own warnings without the line of code that raised them; those of other libraries are for programmers."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        if warning.category.__module__.startswith("circuit_lab"):
            typer.echo(f"! {' '.join(str(warning.message).split())}", err=True)
