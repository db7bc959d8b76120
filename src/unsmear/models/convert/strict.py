"""Conversion that accounts for every key: nothing left over, nothing unfilled, every shape as it should be."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unsmear.errors import WeightsError

State = dict[str, Tensor]


def part(state: Mapping[str, Tensor], prefix: str) -> State:
    """The entries below ``prefix``, named without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def without_prefixes(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> State:
    """The state without those of ``prefixes`` that all its keys begin with, in whatever order they are nested."""
    state = dict(state)
    while prefix := next((p for p in prefixes if state and all(key.startswith(p) for key in state)), None):
        state = part(state, prefix)
    return state


def convert_strictly(
    state: Mapping[str, Tensor],
    convert: Callable[[State], Mapping[str, Tensor | None]],
    wanted: Mapping[str, Tensor],
    prefix: str = "",
) -> State:
    """What ``convert`` makes of ``state``, after a trial on shapes alone has shown that it leaves nothing open.

    Args:
        state: tensors by their foreign names.
        convert: foreign names → ours; may hand tensors on or cut views out of them.
        wanted: state dict of the network, on any device.
        prefix: what the file has before every foreign name, for messages.

    Returns:
        Exactly the keys of ``wanted``, each in the shape that it has there.

    Raises:
        WeightsError: a key of either side has no counterpart, or another shape; the first is named.
    """
    tokens = {key: torch.empty(value.shape, device="meta") for key, value in state.items()}
    owners = {id(token): key for key, token in tokens.items()}
    try:
        made = {key: value for key, value in convert(dict(tokens)).items() if value is not None}
    except (KeyError, AttributeError, IndexError) as error:
        raise WeightsError(f"lacks {prefix}{str(error).strip(chr(39))}: the checkpoint is incomplete") from None
    sources = {key: owners[id(value) if id(value) in owners else id(value._base)] for key, value in made.items()}
    lacking = sorted(wanted.keys() - made.keys())
    if lacking:
        raise WeightsError(f"lacks what becomes {and_more(lacking)}: the checkpoint is incomplete or of another model")
    strange = sorted(state.keys() - {sources[key] for key in wanted})
    if strange:
        raise WeightsError(f"has unknown {and_more([prefix + key for key in strange])}: it is of another model")
    check_shapes(made, wanted, {key: prefix + source for key, source in sources.items()})
    done = convert(dict(state))
    return {key: done[key] for key in wanted}  # type: ignore[misc]


def check_shapes(
    made: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: Mapping[str, str] | None = None
) -> None:
    """Raises WeightsError, which names the first tensor (by ``names``) whose shape is another than in ``wanted``."""
    for key in sorted(wanted):
        found, expected = tuple(made[key].shape), tuple(wanted[key].shape)
        if found != expected:
            raise WeightsError(f"has {(names or {}).get(key, key)} of shape {found}, expected {expected}")


def filled(model: nn.Module, state: State) -> Any:
    """``model``, built on the meta device, with ``state`` as its tensors; in evaluation mode, and without gradients."""
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def and_more(keys: list[str]) -> str:
    """The first of some names, and how many others there are."""
    return f"{keys[0]} and {len(keys) - 1} more" if len(keys) > 1 else keys[0]
