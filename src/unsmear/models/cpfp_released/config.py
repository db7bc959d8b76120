"""Sizes of the released stage 1."""

from dataclasses import dataclass
from typing import Annotated

from unsmear.options import Limits, check


@dataclass(frozen=True)
class ReleasedConfig:
    """Arguments of ``ReleasedCPFP``; the defaults are the release's."""

    channels: Annotated[int, Limits(1)] = 192
    shallow: Annotated[int, Limits(16, step=16)] = 64
    heads: Annotated[int, Limits(1)] = 6
    window: Annotated[tuple[int, int, int], Limits(1)] = (2, 8, 8)
    offset_groups: Annotated[int, Limits(2, step=2)] = 16
    offset_limit: Annotated[float, Limits(0, above=True)] = 5.0

    def __post_init__(self) -> None:
        check(self)
