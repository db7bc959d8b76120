"""Options that several commands share, and options that are fields of a dataclass.

duty: Annotated[tuple[float, float], field(BlurSettings, "duty", metavar="MIN MAX")] = BlurSettings.duty
"""

import ast
import inspect
import os
import re
import textwrap
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from unsmear.errors import UsageError

MODEL = "cpfp"
"""The model that is used where none is named."""
WORKERS = min(os.cpu_count() or 1, 8)

Inputs = Annotated[  # of text: a Path would make an empty name the current folder, and Typer refuse what is unreadable
    list[str], typer.Argument(metavar="INPUT...", help="Videos, folders of videos or frames, images.")
]
Split = Annotated[str | None, typer.Option(help="Only train, valid or test.", show_default="all")]
ClipList = Annotated[
    Path | None,
    typer.Option("--list", help="Only the clips of a list file: NAME FRAMES, a clip a line.", show_default="all"),
]
Role = Annotated[
    str | None, typer.Option(help="Only clips in folders of this name, such as blur_gamma.", show_default=False)
]
Yuv = Annotated[
    str | None,
    typer.Option(
        metavar="WxH_FPS_BITS",
        help="What .yuv files hold, such as 1920x1080_50fps_10bit.",
        show_default="what their names state",
    ),
]
Raft = Annotated[
    Path | None,
    typer.Option(help="Weights of RAFT: torchvision's raft_large or princeton-vl's raft-things.", show_default=False),
]
ArchivedPriors = Annotated[
    bool,
    typer.Option("--archived-priors", help="Use the priors that `unsmear data augment` left beside the clips."),
]
Steps = Annotated[int | None, typer.Option(help="Sampling steps, of models that generate.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance, of the same.")]
Prompt = Annotated[str | None, typer.Option(help="What the video shows, of those with a text encoder.")]
NegativePrompt = Annotated[str | None, typer.Option(help="What it does not show, with guidance.")]
Seed = Annotated[int | None, typer.Option(help="Of the noise: same seed, same frames.")]
ProtocolName = Annotated[
    str, typer.Option(help="basicsr, basicsr-frame, koehler, shiftnet or bsst; printed with every figure.")
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda or mps; of ONNX graphs auto, cpu, cuda, tensorrt, directml or coreml.")
]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
Engine = Annotated[str, typer.Option(help="auto, torch, or onnx for a folder of unsmear models export.")]
Workers = Annotated[int, typer.Option(min=1, help="Clips worked on at the same time.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def seconds(text: str) -> float:
    """A time as people write it: ``75``, ``75.5``, ``1:15`` or ``00:01:15.5``. Raises UsageError for anything else."""
    found = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)([0-5]?\d(?:\.\d*)?)", text.strip())
    if found is not None:
        hours, minutes, rest = found.groups(default="0")
        return int(hours) * 3600 + int(minutes) * 60 + float(rest)
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{text}: expected a time in seconds or as [HOURS:]MINUTES:SECONDS, such as 1:15.5") from None


TIME: dict[str, Any] = {"parser": seconds, "metavar": "S|[H:]M:S"}


def field(kind: type, name: str, *spelled: str, **more: Any) -> Any:
    """The option of a dataclass field; its help is the field's docstring, up to the first full stop.

    Args:
        kind, name: the dataclass and its field.
        spelled: the option, where it is not spelled like the parameter.
        more: further arguments of ``typer.Option``.
    """
    more.setdefault("help", docstrings(kind)[name])
    return typer.Option(*spelled, **more)


@cache
def docstrings(kind: type) -> dict[str, str]:
    """First sentences of the strings below the fields of a dataclass, without markup."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for line, below in pairwise(body):
        described = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and described:
            text = " ".join(str(below.value.value).split()).replace("``", "")
            found[line.target.id] = text.split(". ")[0].rstrip(".") + "."
    return found


Musiq = Annotated[
    Path | None,
    typer.Option(help="Weights of MUSIQ, musiq_koniq_ckpt-e95806b9.pth; measures it too.", show_default=False),
]


def sampling(
    steps: int | None, guidance: float | None, prompt: str | None, negative_prompt: str | None, seed: int | None
) -> dict[str, Any]:
    """Those options that were given, for ``load_restorer``."""
    named = {"steps": steps, "guidance": guidance, "prompt": prompt, "negative_prompt": negative_prompt, "seed": seed}
    return {name: value for name, value in named.items() if value is not None}


def check_folder(out: Path | None) -> None:
    """Raises UsageError: ``out`` is a file, found before any work."""
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"`out` {out} is a file; name a folder")


def metric_names(text: str | None, musiq: Path | None) -> tuple[str, ...]:
    """Metrics by name; without names, the default metrics, and MUSIQ if its weights are given."""
    from unsmear.metrics.meter import DEFAULT_METRICS

    return names_of(text, DEFAULT_METRICS if musiq is None else (*DEFAULT_METRICS, "musiq"))


def names_of(text: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """Comma-separated names; ``default`` where none are given."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else default


def raw_format(text: str | None) -> Any:
    """The ``RawFormat`` that ``--yuv`` states; None where it is not given. Raises UsageError: it states no size."""
    from unsmear.video import parse_raw_format

    if text is None:
        return None
    found = parse_raw_format(text)
    if found is None:
        raise UsageError(f"`yuv` {text}: expected size, frame rate and bit depth, such as 1920x1080_50fps_10bit")
    return found
