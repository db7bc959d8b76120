"""Options that several commands share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Split = Annotated[str | None, typer.Option(help="train, valid or test.", show_default="all")]
ClipList = Annotated[Path | None, typer.Option("--list", help="File that names the clips to use.", show_default=False)]
Role = Annotated[
    str | None, typer.Option(help="Only clips in folders of this name, such as blur_gamma.", show_default=False)
]
ProtocolName = Annotated[
    str, typer.Option(help="basicsr, basicsr-frame, koehler, shiftnet or bsst; printed with every figure.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
