"""Rows of CPGD-Net's ablation tables, and of one of ours, with the options that each changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from unsmear.errors import UsageError

Part = Literal["stage 1", "own", "stage 2", "other"]


@dataclass(frozen=True)
class Variant:
    """One row of a table."""

    key: str
    """Key for weights given as KEY=DIR; for rows of the paper also the key in ``published.csv``, unless ``published``
    states another."""
    label: str
    """Label in tables."""
    part: Part = "stage 1"
    """``stage 1`` uses the given CPFP, ``own`` a CPFP trained for the row, ``stage 2`` a model that generates;
    ``other`` is a method that unsmear does not run."""
    motion: str = "mv"
    """Source of the motion."""
    residual: bool = True
    """Whether the residual is used; if not, it is zero."""
    lacks: str = ""
    """For ``own``: the input without which its checkpoint must be trained, and the command for it."""
    blurred_hint: bool = False
    """For ``stage 2``: whether the hint is the blurred frame instead of stage 1's result."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """For ``stage 2``: sampler settings that differ from those of ``full``."""
    trained: Mapping[str, Any] = field(default_factory=dict)
    """For ``stage 2``: required configuration of the control network of a checkpoint of the row's own."""
    only_trained: str = ""
    """For ``stage 2``: the checkpoint that the row needs, if the weights of ``full`` cannot be used, and the command
    that trains it."""
    published: str = ""


def _trained_with(option: str, value: str) -> str:
    command = f"`unsmear train cpgd CONFIG control.{option}={value}`"
    return f"a control network trained with {option}: {value} ({command})"


def _options() -> tuple[Variant, ...]:
    """Rows for values of each sampler option; values equal to those of ``full`` are not measured again."""
    labels: dict[str, tuple[str, dict[Any, str]]] = {
        "joint_time_attention": ("self-attention over {} frames", {True: "six", False: "single"}),
        "carry_noise": ("noise {}", {True: "carried along V", False: "drawn for each frame"}),
        "carry_detail": ("{} of the detail from the frame before", {0.0: "none", 0.5: "half"}),
        "still_px": ("whole detail from {} px of motion on", {0.0: "0", 2.0: "2"}),
        "cancel_autoencoder": ("error of the autoencoder {}", {True: "cancelled", False: "left in"}),
        "colour": ("coarse colour {}", {True: "from stage 1", False: "as generated"}),
        "fidelity": ("fidelity {}", {0.0: "0", 0.25: "0.25", 0.5: "0.5"}),
        "start": ("start at {} T", {0.1: "0.1", 0.25: "0.25", 0.5: "0.5", 1.0: "1.0"}),
        "steps": ("{} steps", {1: "1", 4: "4", 10: "10", 50: "50"}),
    }
    switch = {True: "on", False: "off"}
    rows = []
    for name, (template, values) in labels.items():
        for value, text in values.items():
            key = f"{name}-{switch[value] if isinstance(value, bool) else value}"
            trained = {name: value} if name == "joint_time_attention" else {}
            rows.append(Variant(key, template.format(text), "stage 2", sampling={name: value}, trained=trained))
    return tuple(rows)


_WITHOUT_CPFP = Variant("without_cpfp", "without CPFP (hint: the blurred frame)", "stage 2", blurred_hint=True)
_IRCONTROLNET = Variant(
    "ircontrolnet",
    "with IRControlNet (stage 2 without priors)",
    "stage 2",
    sampling={"guided": False},
    trained={"guided": False},
)

_COMPARED = ("PVDNet", "TSP", "STDAN", "DSTNet", "VRT", "RVRT", "Shift-Net", "BSSTNet")

TABLES: dict[str, tuple[Variant, ...]] = {
    "I": (
        *(Variant(name, name, "other") for name in _COMPARED),
        Variant("without_cpc", "CPFP, stage 1 alone (ours)"),
        Variant("full", "CPGD-Net", "stage 2", published="CPGD-Net"),
    ),
    "II": (
        _WITHOUT_CPFP,
        Variant("without_cpc", "without CPC (stage 1 alone)"),
        _IRCONTROLNET,
        Variant("full", "stage 1 and CPC", "stage 2"),
    ),
    "III": (
        Variant(
            "without_crs",
            "without CRs",
            "own",
            lacks="coding residuals (`unsmear train cpfp CONFIG model.use_residual=false`)",
        ),
        Variant("mv", "MVs"),
        Variant("raft-4", "RAFT, 4 iterations", motion="raft-4"),
        Variant("raft-4-warm", "RAFT, 4 iterations from MVs", motion="raft-4-warm"),
        Variant("raft-20", "RAFT, 20 iterations", motion="raft-20"),
        Variant("dis", "DIS flow (ours)", motion="dis"),
        Variant("none", "no motion, same weights (ours)", motion="none"),
        Variant("zero_crs", "MVs, CRs set to 0, same weights (ours)", residual=False),
    ),
    "IV": (
        Variant(
            "without_extra_data",
            "without additional data",
            "stage 2",
            only_trained="a control network trained without additional data (`unsmear train cpgd CONFIG hybrid=0`)",
        ),
        Variant("full", "with additional data", "stage 2"),
    ),
    "options": (
        Variant("full", "as the model comes", "stage 2"),
        replace(_WITHOUT_CPFP, label="hint: the blurred frame"),
        replace(_IRCONTROLNET, label="attention not guided (IRControlNet)"),
        Variant(
            "shared_query",
            "L_qm is L_q (the authors' release)",
            "stage 2",
            trained={"shared_query": True},
            only_trained=_trained_with("shared_query", "true"),
        ),
        Variant(
            "prior_width-1",
            "A has one channel",
            "stage 2",
            trained={"prior_width": 1},
            only_trained=_trained_with("prior_width", "1"),
        ),
        *_options(),
    ),
}
"""CPGD-Net's tables by number; ``options`` is ours: options of stage 2, one change per row."""

FIGURES = {
    "I": "Figs. 7 and 8",
    "II": "Figs. 6 and 9",
    "III": "no figure of its own in the paper",
    "IV": "Fig. 11",
    "options": "no figure of the paper",
}
"""Figures of the paper that correspond to the strips of crops of a table."""

TITLES = {
    table: "CPGD-Net, options of stage 2 (ours)" if table == "options" else f"CPGD-Net, Table {table}"
    for table in TABLES
}


def find_table(name: str) -> str:
    """Return the key of a table: ``I`` to ``IV``, also given as 1 to 4 or in lower case, or ``options``.

    Raises:
        UsageError: an unknown table.
    """
    known = {"1": "I", "2": "II", "3": "III", "4": "IV"} | {table.upper(): table for table in TABLES}
    try:
        return known[name.upper()]
    except KeyError:
        raise UsageError(f"table {name!r} is unknown; choose one of {', '.join(TABLES)} (of CPGD-Net)") from None
