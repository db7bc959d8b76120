"""Classes by their public names, ``unsmear.NAME``."""

from typing import TypeVar

from unsmear.models.zoo import LIBRARY

K = TypeVar("K", bound=type)


def public(kind: K) -> K:
    """Class decorator: the class belongs to ``unsmear``, not to a module within it.

    So that ``model_index.json`` names library and class as it does for diffusers' own, and folders stay readable
    when modules move. ``unsmear.__getattr__`` finds the class.
    """
    kind.__module__ = LIBRARY
    return kind
