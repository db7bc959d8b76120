"""Training configurations: YAML files checked against dataclasses, unknown keys named."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from unsmear.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class OptimiserConfig:
    name: str = "adam"
    """``adam`` (the paper's) or ``adamw``."""
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    decay_from: int | None = None
    """From this step the rate falls along a cosine to zero at the last step; None keeps it constant."""
    clip_norm: float | None = None


@dataclass(frozen=True)
class LoopConfig:
    """How long, how often, from which seed."""

    steps: int = 300_000
    batch: int = 8
    accumulate: int = 1
    """Batches whose gradients are averaged for one step."""
    seed: int = 0
    ema: float = 0.999
    checkpoint_every: int = 500
    validate_every: int = 1000
    log_every: int = 50
    precision: str = "no"
    """``no`` (float32), ``bf16`` or ``fp16``."""
    channels_last: bool = False
    """Memory format of the weights: faster where a network is all convolutions, on a CPU in bf16 too."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise UsageError(f"loop.accumulate {self.accumulate}: give 1 (a batch a step) or more")


def from_mapping(kind: type[T], values: Any, where: str) -> T:
    """Build dataclass ``kind`` from a mapping, nested dataclasses too.

    Where ``kind`` has presets, the key ``preset`` names the one that the other keys change.

    Raises:
        UsageError: not a mapping, a key that ``kind`` does not have, or a preset that it does not have.
    """
    if not isinstance(values, dict):
        raise UsageError(f"{where}: expected a mapping, found {type(values).__name__}")
    base: dict[str, Any] = {}
    preset = getattr(kind, "preset", None)
    if "preset" in values and preset is not None:
        try:
            base = dict(vars(preset(values["preset"])))
        except ValueError as error:
            raise UsageError(f"{where}: {error}") from None
        values = {key: value for key, value in values.items() if key != "preset"}
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    strange = sorted(set(values) - set(known))
    if strange:
        raise UsageError(f"{where}: unknown key {strange[0]!r}; known are {', '.join(sorted(known))}")
    made = {}
    for key, value in values.items():
        default = known[key].default_factory
        if isinstance(default, type) and hasattr(default, "__dataclass_fields__"):
            value = from_mapping(default, value, f"{where}.{key}")
        elif isinstance(value, list) and "tuple" in str(known[key].type):
            value = tuple(value)
        made[key] = value
    return kind(**(base | made))


def read_yaml(path: Path) -> dict[str, Any]:
    """The top-level mapping of a YAML file."""
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: give a training configuration (YAML)") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected a mapping at the top level")
    return values
