"""Conversion of control networks of DiffBIR v1, v2 and v2.1, and of CPGD-Net's release, to ``CPControlNet``.

All have one layout (IRControlNet: the hint's latent is concatenated with the noisy one). CPGD-Net adds ``attn1.mask``,
its L_m, to every self-attention, and an ``attn2.mask`` that its own code never uses.
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

RELEASED_OPTIONS = {"shared_query": True, "joint_time_attention": True, "prior_form": "released"}
"""Options of CPGD-Net's release, where it differs from the paper or the paper is silent."""

RELEASED_PROMPT = (
    "high-quality, clear, fine details, sharp edges, realistic textures, detailed enhancement, high resolution, "
    "high fidelity, fine-grained details."
)
"""Prompt with which CPGD-Net's release samples every frame; in its training it was dropped half of the time."""

_USED_MASK, _UNUSED_MASK = "attn1.mask.weight", "attn2.mask.weight"
_PRIOR_PARTS = ("mask", "to_qm")


def is_control(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is a control network in DiffBIR's layout, under any of the known prefixes."""
    return any(key.startswith("zero_convs.") for key in without_prefixes(state, PREFIXES))


def has_priors(state: Mapping[str, Tensor]) -> bool:
    """Whether a control network is CPGD-Net's, which has layers for the coding priors."""
    return any(key.endswith(_USED_MASK) for key in state)


def convert_control(state: Mapping[str, Tensor], unet_config: Mapping[str, Any] = UNET_CONFIG) -> CPControlNet:
    """Convert a control network of DiffBIR or CPGD-Net to a ``CPControlNet``.

    Args:
        state: tensors by name, with or without ``control_model.``, ``controlnet.`` or ``module.``; on the meta device
            to check the layout only.
        unet_config: configuration of the denoiser that it controls, whose encoder it shares; by default that of
            Stable Diffusion 2.

    Returns:
        For CPGD-Net, a network with the options of its release. For DiffBIR, the layers of the priors are initialised
        (from a fixed seed) so that the outputs are DiffBIR's until it is trained.

    Raises:
        WeightsError: a key without counterpart or of another shape, or a network for another version.
    """
    state = without_prefixes(state, PREFIXES)
    width = context_width(state)
    if width is not None and width != unet_config["cross_attention_dim"]:
        check_context_width(width)
    options = RELEASED_OPTIONS if has_priors(state) else {}
    unused = [key for key in state if key.endswith(_UNUSED_MASK)]
    if unused:
        log.warning("%d tensors are unused, as in CPGD-Net's own code: %s and the like", len(unused), unused[0])
    state = {key: value for key, value in state.items() if not key.endswith(_UNUSED_MASK)}
    control = _initialised(unet_config, options, next(iter(state.values())).device)
    initial = _prior_parts(control.state_dict()) if not options else {}
    target = {key: value for key, value in control.state_dict().items() if key not in initial}
    converted = convert_strictly(state, lambda s: convert_controlnet_checkpoint(s, control.config), target)
    dtype = next(iter(converted.values())).dtype
    converted |= {key: value.to(dtype) for key, value in initial.items()}
    control.load_state_dict(converted, strict=True, assign=True)
    return control.eval().requires_grad_(False)


def _initialised(unet_config: Mapping[str, Any], options: Mapping[str, Any], device: torch.device) -> CPControlNet:
    with torch.device("meta"):
        config = CPControlNet.beside(UNet2DConditionModel.from_config(dict(unet_config)), **options).config
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CPControlNet.from_config(config)


def _prior_parts(state: State) -> State:
    return {key: value for key, value in state.items() if key.split(".")[-2] in _PRIOR_PARTS}
