"""Other options for a control network that has weights already, such as one imported from DiffBIR."""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from unsmear.models.cpgd.control import CPControlNet
from unsmear.options import OptionError


def with_options(control: CPControlNet, **options: Any) -> CPControlNet:
    """The same control network with other options, as far as its weights allow.

    Layers of the priors that add nothing yet (as imported from DiffBIR) are initialised anew, with the output
    unchanged. Of trained ones ``guided: false`` drops all; a shared query is copied to one of its own, and an A of one
    channel to all channels of a layer, with the output unchanged. ``joint_time_attention`` has no weights.

    Args:
        control: the network, which is not changed.
        options: fields of its configuration → values.

    Returns:
        A new network on the CPU; ``control`` itself where nothing differs.

    Raises:
        OptionError: trained layers of the priors cannot be expressed with these options.
    """
    changes = {name: value for name, value in options.items() if value != control.config[name]}
    if not changes:
        return control
    other = CPControlNet.from_config({**control.config, **changes})
    state = control.state_dict()
    before, after = _guided(control), _guided(other)
    for name, layer in after.items():
        if name in before and not _adds_nothing(before[name]):
            state |= {f"{name}.{key}": value for key, value in _converted(before[name], layer).items()}
        else:
            fresh = {key: value for key, value in layer.state_dict().items() if key.startswith(("mask.", "to_qm."))}
            state |= {f"{name}.{key}": value for key, value in fresh.items()}
    other.load_state_dict({key: state[key] for key in other.state_dict()})
    return other


def _guided(control: CPControlNet) -> dict[str, Attention]:
    """The self-attentions that have layers of the priors, by name."""
    return {
        name: layer
        for name, layer in control.named_modules()
        if isinstance(layer, Attention) and hasattr(layer, "mask")
    }


def _adds_nothing(layer: Attention) -> bool:
    """Whether the priors leave the query unchanged, as they do before training."""
    state = layer.state_dict()
    gate = "to_qm.weight" if "to_qm.weight" in state else "mask.weight"
    return not bool(state[gate].any())


def _converted(before: Attention, after: Attention) -> dict[str, Tensor]:
    """Weights of ``before`` in the shapes of ``after``, with the same output."""
    state, wanted = before.state_dict(), after.state_dict()
    width, channels = state["mask.weight"].shape[0], wanted["mask.weight"].shape[0]
    if width != channels and width != 1:
        raise OptionError("prior_width", 1, "layer: A was trained with all channels, which one cannot hold")
    if "to_qm.weight" in state and "to_qm.weight" not in wanted:
        raise OptionError("shared_query", True, "false: L_qm was trained as a projection of its own")
    state.setdefault("to_qm.weight", state["to_q.weight"])
    state.setdefault("mask.bias", torch.zeros(width))
    for key in ("mask.weight", "mask.bias"):
        state[key] = state[key].expand(channels, *state[key].shape[1:])
    return {key: state[key] for key in wanted}
