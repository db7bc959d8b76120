"""Public names of classes, ``unsmear.NAME``."""

from typing import TypeVar

from unsmear.models.zoo import LIBRARY

K = TypeVar("K", bound=type)


def public(kind: K) -> K:
    """Class decorator that sets the module of a class to ``unsmear``.

    ``model_index.json`` then names library and class as it does for diffusers' own, and folders stay readable
    when modules move. ``unsmear.__getattr__`` finds the class.
    """
    kind.__module__ = LIBRARY
    return kind
