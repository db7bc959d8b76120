"""Strict conversion of state dicts: every key is used, every parameter is set, and all shapes match."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unsmear.errors import WeightsError

State = dict[str, Tensor]


def part(state: Mapping[str, Tensor], prefix: str) -> State:
    """Entries whose keys begin with ``prefix``, by keys without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def without_prefixes(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> State:
    """Remove those of ``prefixes`` that all keys begin with, nested in any order."""
    state = dict(state)
    while prefix := next((p for p in prefixes if state and all(key.startswith(p) for key in state)), None):
        state = part(state, prefix)
    return state


def convert_strictly(
    state: Mapping[str, Tensor],
    convert: Callable[[State], Mapping[str, Tensor | None]],
    target: Mapping[str, Tensor],
    prefix: str = "",
) -> State:
    """Convert ``state``, after a dry run on the meta device has checked keys and shapes.

    Args:
        state: tensors by foreign names.
        convert: foreign names → ours; returns the given tensors or views of them.
        target: state dict of the network, on any device.
        prefix: prefix of the foreign names in the file, for messages.

    Returns:
        Tensors with exactly the keys and shapes of ``target``.

    Raises:
        WeightsError: a key on either side has no counterpart, or another shape; the first is named.
    """
    tokens = {key: torch.empty(value.shape, device="meta") for key, value in state.items()}
    owners = {id(token): key for key, token in tokens.items()}
    try:
        converted = {key: value for key, value in convert(dict(tokens)).items() if value is not None}
    except (KeyError, AttributeError, IndexError) as error:
        raise WeightsError(f"lacks {prefix}{str(error).strip(chr(39))}: the checkpoint is incomplete") from None
    sources = {key: owners[id(value) if id(value) in owners else id(value._base)] for key, value in converted.items()}
    missing = sorted(target.keys() - converted.keys())
    if missing:
        raise WeightsError(f"lacks what becomes {and_more(missing)}: the checkpoint is incomplete or of another model")
    unknown = sorted(state.keys() - {sources[key] for key in target})
    if unknown:
        raise WeightsError(f"has unknown {and_more([prefix + key for key in unknown])}: it is of another model")
    check_shapes(converted, target, {key: prefix + source for key, source in sources.items()})
    tensors = convert(dict(state))
    return {key: tensors[key] for key in target}  # type: ignore[misc]


def check_shapes(
    converted: Mapping[str, Tensor], target: Mapping[str, Tensor], names: Mapping[str, str] | None = None
) -> None:
    """Raise WeightsError naming the first tensor (by ``names``) whose shape differs from that in ``target``."""
    for key in sorted(target):
        found, expected = tuple(converted[key].shape), tuple(target[key].shape)
        if found != expected:
            raise WeightsError(f"has {(names or {}).get(key, key)} of shape {found}, expected {expected}")


def filled(model: nn.Module, state: State) -> Any:
    """Assign ``state`` to ``model``, built on the meta device; in evaluation mode, without gradients."""
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def and_more(keys: list[str]) -> str:
    """The first of several names, and the number of others."""
    return f"{keys[0]} and {len(keys) - 1} more" if len(keys) > 1 else keys[0]
