"""Errors of what a recipe builds, with the name of the recipe's section."""

import contextlib

from keras_aha.recipes.values import RecipeError


@contextlib.contextmanager
def in_section(name: str):
    """Makes a ValueError of what is built from a section a RecipeError that names the section."""
    try:
        yield
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(f"[{name}]: {error}") from error
