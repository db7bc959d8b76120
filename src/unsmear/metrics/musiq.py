"""MUSIQ, a no-reference metric: a transformer over patches of a frame at three sizes (Ke et al., ICCV 2021).

The published network, with the tensor names of the checkpoints that IQA-PyTorch distributes. Where that package differs
from the authors' code, its choices are used, so that figures are comparable: bicubic resizing and exact GELU. The code
is ours; weights are not shipped.
"""

import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unsmear.errors import UsageError, WeightsError

WEIGHTS = "musiq_koniq_ckpt-e95806b9.pth"
"""Weights trained on KonIQ-10k, the default of IQA-PyTorch."""

LONGER_SIDES = (224, 384)
"""Longer sides, pixels, to which a frame is resized; the third size is its own."""

_PATCH, _GRID, _STEM = 32, 10, 64


class MUSIQ(nn.Module):
    """The network: patches → tokens by a small convolutional stem, transformer, score of the first token.

    Args:
        width: of tokens.
        layers, heads, hidden: of the transformer.
    """

    def __init__(self, width: int = 384, layers: int = 14, heads: int = 6, hidden: int = 1152):
        super().__init__()
        self.conv_root = _StandardisedConv(3, _STEM, 7, 2)
        self.gn_root = nn.GroupNorm(32, _STEM, eps=1e-6)
        self.block1 = _Bottleneck(_STEM, 4 * _STEM)
        self.embedding = nn.Linear(4 * _STEM * (_PATCH // 4) ** 2, width)
        self.transformer_encoder = _Encoder(width, layers, heads, hidden)
        self.head = nn.Linear(width, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Score, () about 0…100, higher is better, of a frame (1, 3, H, W) in [0, 1]."""
        tokens = []
        for scale, side in enumerate((*LONGER_SIDES, None)):
            sized = 2 * image - 1 if side is None else _resized(2 * image - 1, side)
            rows, columns = (-(-length // _PATCH) for length in sized.shape[-2:])
            embedded = self.embedding(self._stem(_patches(sized, rows, columns)))
            tokens.append(self.transformer_encoder.placed(embedded, rows, columns, scale))
        return self.head(self.transformer_encoder(torch.cat(tokens)[None])[0, 0])[0]

    def _stem(self, patches: Tensor) -> Tensor:
        """(n, 3, 32, 32) → (n, 8 · 8 · 256), channels last."""
        x = F.max_pool2d(_same_padded(self.gn_root(self.conv_root(patches)).relu(), 3, 2), 3, 2)
        return self.block1(x).permute(0, 2, 3, 1).flatten(1)


class _StandardisedConv(nn.Conv2d):
    """Convolution without bias, kernels standardised to mean 0 and deviation 1, output size ceil(input / stride)."""

    def __init__(self, inside: int, outside: int, side: int, stride: int = 1):
        super().__init__(inside, outside, side, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        padded = _same_padded(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(padded, (self.weight - mean) / (std + 1e-5), stride=self.stride)


class _Bottleneck(nn.Module):
    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.conv1, self.gn1 = _StandardisedConv(inside, inside, 1), nn.GroupNorm(32, inside, eps=1e-4)
        self.conv2, self.gn2 = _StandardisedConv(inside, inside, 3), nn.GroupNorm(32, inside, eps=1e-4)
        self.conv3, self.gn3 = _StandardisedConv(inside, outside, 1), nn.GroupNorm(32, outside, eps=1e-4)
        self.conv_proj, self.gn_proj = _StandardisedConv(inside, outside, 1), nn.GroupNorm(32, outside, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.gn2(self.conv2(self.gn1(self.conv1(x)).relu())).relu()
        return (self.gn3(self.conv3(inner)) + self.gn_proj(self.conv_proj(x))).relu()


class _Encoder(nn.Module):
    """Transformer over the tokens of all sizes and a class token, from which the score is computed."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int):
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.posembed_input = nn.ParameterDict({"position_emb": 0.02 * torch.randn(1, _GRID**2, width)})
        self.scaleembed_input = nn.ParameterDict({"scale_emb": 0.02 * torch.randn(len(LONGER_SIDES) + 1, width)})
        blocks = {f"encoderblock_{i}": _Block(width, heads, hidden) for i in range(layers)}
        self.transformer = nn.ModuleDict(blocks)
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)

    def placed(self, tokens: Tensor, rows: int, columns: int, scale: int) -> Tensor:
        """Tokens (rows · columns, C) plus embeddings of position, on a 10×10 grid, and of scale."""
        y, x = (torch.arange(count, device=tokens.device) * _GRID // count for count in (rows, columns))
        places = (y[:, None] * _GRID + x).flatten()
        return tokens + self.posembed_input["position_emb"][0, places] + self.scaleembed_input["scale_emb"][scale]

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.cat([self.cls, tokens], 1)
        for block in self.transformer.values():
            x = block(x)
        return self.encoder_norm(x)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value", "out")})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        query, key, value = (
            self.attention[name](normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        x = x + self.attention["out"](F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


def _same_padded(x: Tensor, side: int, stride: int) -> Tensor:
    """Zero padding for an output of ceil(size / stride), as TensorFlow's SAME."""
    edges = []
    for length in (x.shape[-1], x.shape[-2]):
        total = max((-(-length // stride) - 1) * stride + side - length, 0)
        edges += [total // 2, total - total // 2]
    return F.pad(x, edges)


def _patches(image: Tensor, rows: int, columns: int) -> Tensor:
    """(1, 3, H, W) → (rows · columns, 3, 32, 32)."""
    padded = _same_padded(image, _PATCH, _PATCH)[0]
    return padded.unflatten(2, (columns, _PATCH)).unflatten(1, (rows, _PATCH)).permute(1, 3, 0, 2, 4).flatten(0, 1)


def _resized(image: Tensor, side: int) -> Tensor:
    ratio = side / max(image.shape[-2:])
    size = [round(length * ratio) for length in image.shape[-2:]]
    return F.interpolate(image, size, mode="bicubic", align_corners=False)


def load_musiq(path: Path | None) -> MUSIQ:
    """Load MUSIQ from a file.

    Raises:
        UsageError: no file is given.
        WeightsError: it is missing, or does not hold them.
    """
    if path is None:
        raise UsageError(f"metric musiq needs its weights, which are not shipped: give {WEIGHTS} as `musiq`")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = next((state[key] for key in ("params", "state_dict") if key in state), state)
        model = MUSIQ()
        model.load_state_dict(state, strict=True)
    except (OSError, RuntimeError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        why = " ".join(str(error).split())[:160]
        raise WeightsError(f"{path} does not hold MUSIQ ({why}): give {WEIGHTS}") from None
    return model.eval().requires_grad_(False)
