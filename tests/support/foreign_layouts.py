"""Names that original checkpoints give to the tensors of diffusers' networks, written from the published layouts.

And small networks to try them on.
"""

import re
from collections.abc import Mapping
from functools import cache

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from unsmear.models.convert.stable_diffusion import Layout
from unsmear.models.cpgd.control import CPControlNet

UNET, VAE = "model.diffusion_model.", "first_stage_model."

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "controlnet_mid_block": "middle_block_out.0",
}
MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(key: str, depth: int = 2) -> str:
    """What a latent-diffusion UNet or control network calls ``key``; ``depth``: resnets in a block of its encoder."""
    stem, kind = key.rsplit(".", 1)
    if stem in ENDS:
        return f"{ENDS[stem]}.{kind}"
    if found := re.fullmatch(r"controlnet_down_blocks\.(\d+)", stem):
        return f"zero_convs.{found[1]}.0.{kind}"
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", stem):
        return f"middle_block.{MIDDLE[f'{found[1]}.{found[2]}']}.{inner(found[3])}.{kind}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", stem)
    assert found is not None, key
    side, block, what, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    first = block * (depth + 1)
    if what == "downsamplers":
        return f"input_blocks.{first + depth + 1}.0.op.{kind}"
    if what == "upsamplers":
        # After the attention where the block has one; the lowest block has none.
        return f"output_blocks.{first + depth}.{1 if block == 0 else 2}.conv.{kind}"
    number = first + layer + (1 if side == "down" else 0)
    name = "input_blocks" if side == "down" else "output_blocks"
    return f"{name}.{number}.{0 if what == 'resnets' else 1}.{inner(rest)}.{kind}"


def inner(rest: str) -> str:
    head, dot, tail = rest.partition(".")
    return RESNET.get(head, head) + dot + tail


VIDEO_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "temp_attentions.0": 2, "resnets.1": 3}
VIDEO_PLACE = {"resnets": 0, "attentions": 1, "temp_attentions": 2}


def vgen_name(key: str, depth: int = 2, plain: tuple[int, ...] = (3,)) -> str:
    """What VGen calls ``key`` of a 3D UNet. Temporal convolutions are parts of the resnet that they follow.

    ``depth``: resnets in a block of its encoder; ``plain``: blocks of the encoder without attention.
    """
    stem, kind = key.rsplit(".", 1)
    if stem in ENDS:
        return f"{ENDS[stem]}.{kind}"
    if stem.startswith("transformer_in."):
        return f"input_blocks.0.1.{stem.removeprefix('transformer_in.')}.{kind}"
    if found := re.fullmatch(r"mid_block\.temp_convs\.(\d)\.(.+)", stem):
        return f"middle_block.{3 * int(found[1])}.temopral_conv.{found[2]}.{kind}"
    if found := re.fullmatch(r"mid_block\.((?:resnets|attentions|temp_attentions)\.\d)\.(.+)", stem):
        return f"middle_block.{VIDEO_MIDDLE[found[1]]}.{inner(found[2])}.{kind}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d)\.([a-z_]+)\.(\d)\.(.+)", stem)
    assert found is not None, key
    side, block, what, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    first = block * (depth + 1)
    if what == "downsamplers":
        return f"input_blocks.{first + depth + 1}.op.{kind}"
    if what == "upsamplers":
        # After both attentions where the block has them; those of the lowest level have none.
        lowest = max(plain) - block in plain
        return f"output_blocks.{first + depth}.{1 if lowest else 3}.conv.{kind}"
    name, number = ("input_blocks", first + layer + 1) if side == "down" else ("output_blocks", first + layer)
    if what == "temp_convs":
        return f"{name}.{number}.0.temopral_conv.{rest}.{kind}"
    return f"{name}.{number}.{VIDEO_PLACE[what]}.{inner(rest)}.{kind}"


def vgen_unet(state: Mapping[str, Tensor], depth: int = 2, plain: tuple[int, ...] = (3,)) -> dict[str, Tensor]:
    """Projections of its attention over time are convolutions."""
    made = {}
    for key, value in state.items():
        temporal = "temp_attentions" in key or key.startswith("transformer_in")
        conv = temporal and re.search(r"\.?proj_(in|out)\.weight$", key)
        made[vgen_name(key, depth, plain)] = value[:, :, None] if conv else value
    return made


def image_condition(width: int, tokens: int = 4, device: str = "cpu") -> dict[str, Tensor]:
    """TF-T2V's way from CLIP's image vector to tokens."""
    shapes = {"0.weight": (width, width), "0.bias": (width,)}
    shapes |= {"2.weight": (tokens * width, width), "2.bias": (tokens * width,)}
    return {f"pre_image_condition.{key}": torch.randn(shape, device=device) for key, shape in shapes.items()}


def vae_name(key: str, blocks: int = 4) -> str:
    """What a latent-diffusion autoencoder calls ``key``; its decoder counts from the full resolution down."""
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if found := re.fullmatch(r"(.+)\.mid_block\.resnets\.(\d)\.(.+)", key):
        return f"{found[1]}.mid.block_{int(found[2]) + 1}.{found[3]}"
    if found := re.fullmatch(r"(.+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", key):
        return f"{found[1]}.mid.attn_1.{VAE_ATTENTION[found[2]]}.{found[3]}"
    if found := re.fullmatch(r"encoder\.down_blocks\.(\d)\.(.+)", key):
        return f"encoder.down.{found[1]}.{vae_inner(found[2])}"
    if found := re.fullmatch(r"decoder\.up_blocks\.(\d)\.(.+)", key):
        return f"decoder.up.{blocks - 1 - int(found[1])}.{vae_inner(found[2])}"
    return key


def vae_inner(rest: str) -> str:
    return (
        rest.replace("resnets.", "block.")
        .replace("downsamplers.0.conv", "downsample.conv")
        .replace("upsamplers.0.conv", "upsample.conv")
    )


def original_unet(state: Mapping[str, Tensor], prefix: str = "", depth: int = 2) -> dict[str, Tensor]:
    return {prefix + unet_name(key, depth): value for key, value in state.items()}


def original_vae(state: Mapping[str, Tensor], prefix: str = "", blocks: int = 4) -> dict[str, Tensor]:
    """Attention there is made of 1×1 convolutions."""
    made = {}
    for key, value in state.items():
        name = vae_name(key, blocks)
        conv = ".attn_1." in name and ".norm." not in name and name.endswith("weight")
        made[prefix + name] = value[:, :, None, None] if conv else value
    return made


def original_text(width: int, layers: int, vocabulary: int, tokens: int, device: str = "cpu") -> dict[str, Tensor]:
    """An OpenCLIP text tower of random numbers."""
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (tokens, width),
        "text_projection": (width, width),
        "logit_scale": (),
        "token_embedding.weight": (vocabulary, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    for n in range(layers):
        block = f"transformer.resblocks.{n}"
        shapes |= {f"{block}.{norm}.{kind}": (width,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= {f"{block}.attn.out_proj.weight": (width, width), f"{block}.attn.out_proj.bias": (width,)}
        shapes |= {f"{block}.mlp.c_fc.weight": (4 * width, width), f"{block}.mlp.c_fc.bias": (4 * width,)}
        shapes |= {f"{block}.mlp.c_proj.weight": (width, 4 * width), f"{block}.mlp.c_proj.bias": (width,)}
    return {f"cond_stage_model.model.{key}": torch.randn(shape, device=device) for key, shape in shapes.items()}


SCHEDULE = (
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
)


def leftovers(device: str = "cpu") -> dict[str, Tensor]:
    """What such checkpoints hold besides networks."""
    made = {name: torch.zeros(1000, device=device) for name in SCHEDULE}
    return made | {name: torch.zeros((), device=device) for name in ("model_ema.decay", "model_ema.num_updates")}


TINY_UNET = {
    "sample_size": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "cross_attention_dim": 1024,
    "attention_head_dim": [2, 4],
    "use_linear_projection": True,
}
TINY_VAE = {
    "sample_size": 16,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [32, 64],
    "latent_channels": 4,
}
TINY = Layout(TINY_UNET, TINY_VAE, text_blocks=24)


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Every number of a network is random, so that none is zero or one by habit."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model.eval()


@cache
def tiny_unet() -> UNet2DConditionModel:
    """Random, but for a path from input to output that returns nearly the input, as a denoiser of ε does at t = 999."""
    torch.manual_seed(0)
    unet = shaken(UNet2DConditionModel(**TINY_UNET))
    last = unet.up_blocks[-1]
    with torch.no_grad():
        for layer in (unet.conv_in, last.resnets[-1].conv2, last.attentions[-1].proj_out, unet.conv_out):
            layer.weight.zero_()
            layer.bias.zero_()
        shortcut = last.resnets[-1].conv_shortcut
        shortcut.weight.zero_()
        shortcut.bias.zero_()
        for k in range(4):  # silu(x) − silu(−x) = x
            unet.conv_in.weight[k, k, 1, 1], unet.conv_in.weight[4 + k, k, 1, 1] = 1, -1
            unet.conv_out.weight[k, k, 1, 1], unet.conv_out.weight[k, 4 + k, 1, 1] = 1, -1
        for k in range(8):
            shortcut.weight[k, shortcut.in_channels - 32 + k] = 1
        unet.conv_norm_out.weight.fill_(1)
        unet.conv_norm_out.bias.zero_()
    return unet


@cache
def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return shaken(AutoencoderKL(**TINY_VAE))


def tiny_original() -> dict[str, Tensor]:
    return {
        **original_unet(tiny_unet().state_dict(), UNET, depth=1),
        **original_vae(tiny_vae().state_dict(), VAE, blocks=2),
        **leftovers(),
    }


def tiny_control(**options: bool) -> CPControlNet:
    torch.manual_seed(2)
    return shaken(CPControlNet.beside(tiny_unet(), **options))


def diffbir(control: CPControlNet, prefix: str = "") -> dict[str, Tensor]:
    return original_unet(control.state_dict(), prefix, depth=1)


def same(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def millions(model: torch.nn.Module) -> float:
    return round(sum(p.numel() for p in model.parameters()) / 1e6, 2)


def raft_names() -> dict[str, str]:
    """Tensors of RAFT as its authors' checkpoints call them → as torchvision's ``raft_large`` does.

    In the former the norm of a shortcut stands twice; the second name of it has no counterpart, "".
    """
    pairs: dict[str, str] = {}

    def norm(theirs: str, ours: str) -> None:
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            pairs[f"{theirs}.{kind}"] = f"{ours}.{kind}" if ours else ""

    def conv(theirs: str, ours: str) -> None:
        pairs.update({f"{theirs}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")})

    for theirs, ours in (("fnet", "feature_encoder"), ("cnet", "context_encoder")):
        normed = theirs == "cnet"  # instance norm, the other one, has no tensors
        conv(f"{theirs}.conv1", f"{ours}.convnormrelu.0")
        conv(f"{theirs}.conv2", f"{ours}.conv")
        if normed:
            norm(f"{theirs}.norm1", f"{ours}.convnormrelu.1")
        for layer in (1, 2, 3):
            for block in (0, 1):
                here = f"layer{layer}.{block}"
                for i in (1, 2):
                    conv(f"{theirs}.{here}.conv{i}", f"{ours}.{here}.convnormrelu{i}.0")
                    if normed:
                        norm(f"{theirs}.{here}.norm{i}", f"{ours}.{here}.convnormrelu{i}.1")
                if layer > 1 and block == 0:
                    conv(f"{theirs}.{here}.downsample.0", f"{ours}.{here}.downsample.0")
                    if normed:
                        norm(f"{theirs}.{here}.downsample.1", f"{ours}.{here}.downsample.1")
                        norm(f"{theirs}.{here}.norm3", "")
    for theirs, ours in (("c", "corr"), ("f", "flow")):
        for i in (1, 2):
            conv(f"update_block.encoder.conv{theirs}{i}", f"update_block.motion_encoder.conv{ours}{i}.0")
    conv("update_block.encoder.conv", "update_block.motion_encoder.conv.0")
    for gate in "zrq":
        for i in (1, 2):
            conv(f"update_block.gru.conv{gate}{i}", f"update_block.recurrent_block.convgru{i}.conv{gate}")
    for i in (1, 2):
        conv(f"update_block.flow_head.conv{i}", f"update_block.flow_head.conv{i}")
    conv("update_block.mask.0", "mask_predictor.convrelu.0")
    conv("update_block.mask.2", "mask_predictor.conv")
    return pairs
