"""Control networks of DiffBIR v1, v2 and v2.1, and of CPGD-Net's release, to ``CPControlNet``.

All of them have one layout (IRControlNet: the hint's latent joins the noisy one at the first convolution). CPGD-Net
adds ``attn1.mask``, its L_m, to every self-attention, and an ``attn2.mask`` that its own code never uses.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from torch import Tensor

from unsmear.models.convert.stable_diffusion import CONTROL_PREFIX, UNET_CONFIG, check_context_width, context_width
from unsmear.models.convert.strict import State, convert_strictly, without_prefixes
from unsmear.models.cpgd.control import CPControlNet

log = logging.getLogger(__name__)

PREFIXES = ("module.", CONTROL_PREFIX, "controlnet.")

RELEASED_OPTIONS = {"guided": True, "shared_query": True, "joint_time_attention": True}
"""How CPGD-Net's release differs from the paper in these options."""

_USED_MASK, _UNUSED_MASK = "attn1.mask.weight", "attn2.mask.weight"
_PRIOR_PARTS = ("mask", "to_qm")


def is_control(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is a control network in DiffBIR's layout, under any of the known prefixes."""
    return any(key.startswith("zero_convs.") for key in without_prefixes(state, PREFIXES))


def has_priors(state: Mapping[str, Tensor]) -> bool:
    """Whether a control network is CPGD-Net's: it has learned what the coding priors mean."""
    return any(key.endswith(_USED_MASK) for key in state)


def convert_control(state: Mapping[str, Tensor], unet_config: Mapping[str, Any] = UNET_CONFIG) -> CPControlNet:
    """A ``CPControlNet`` from a control network of DiffBIR or CPGD-Net.

    Args:
        state: tensors by name, with or without ``control_model.``, ``controlnet.`` or ``module.``; on the meta device
            where only the layout matters.
        unet_config: of the denoiser that it steers, whose encoder it equals; by default of Stable Diffusion 2.

    Returns:
        From CPGD-Net, with its release's options. From DiffBIR, whose priors have no part yet, as ``CPControlNet``
        starts them: the outputs are DiffBIR's until it is trained. The same file gives the same numbers.

    Raises:
        WeightsError: a key without counterpart or of another shape, or made for another version.
    """
    state = without_prefixes(state, PREFIXES)
    found = context_width(state)
    if found is not None and found != unet_config["cross_attention_dim"]:
        check_context_width(found)
    options = RELEASED_OPTIONS if has_priors(state) else {}
    unused = [key for key in state if key.endswith(_UNUSED_MASK)]
    if unused:
        log.warning("%d tensors are unused, as in CPGD-Net's own code: %s and the like", len(unused), unused[0])
    state = {key: value for key, value in state.items() if not key.endswith(_UNUSED_MASK)}
    control = _built(unet_config, options, next(iter(state.values())).device)
    started = _prior_parts(control.state_dict()) if not options else {}
    wanted = {key: value for key, value in control.state_dict().items() if key not in started}
    made = convert_strictly(state, lambda s: convert_controlnet_checkpoint(s, control.config), wanted)
    dtype = next(iter(made.values())).dtype
    made |= {key: value.to(dtype) for key, value in started.items()}
    control.load_state_dict(made, strict=True, assign=True)
    return control.eval().requires_grad_(False)


def _built(unet_config: Mapping[str, Any], options: dict[str, bool], device: torch.device) -> CPControlNet:
    with torch.device("meta"):
        config = CPControlNet.beside(UNet2DConditionModel.from_config(dict(unet_config)), **options).config
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CPControlNet.from_config(config)


def _prior_parts(state: State) -> State:
    return {key: value for key, value in state.items() if key.split(".")[-2] in _PRIOR_PARTS}
