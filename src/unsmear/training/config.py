"""Training configurations: YAML files checked against dataclasses.

Files follow YAML 1.2: ``1e-4`` is a number, ``yes`` is text. ``base: OTHER.yaml``, relative to the file, names a
configuration of default values; mappings are merged key by key.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from unsmear.errors import UnsmearError, UsageError
from unsmear.options import Limits, OptionError, Share, check, described, flat, shown

T = TypeVar("T")
BASE, PRESET = "base", "preset"


@dataclass(frozen=True)
class OptimiserConfig:
    """The optimiser and its learning rate."""

    name: Literal["adam", "adamw"] = "adam"
    """``adam`` (the paper's) or ``adamw``."""
    lr: Annotated[float, Limits(0)] = 1e-4
    betas: Annotated[tuple[float, float], Limits(0, 1, below=True)] = (0.9, 0.999)
    weight_decay: Annotated[float, Limits(0)] = 0.0
    warmup_steps: Annotated[int, Limits(0)] = 0
    decay_from: Annotated[int, Limits(0)] | None = None
    """Step from which the rate decays along a cosine to zero at the last step; None keeps it constant."""
    clip_norm: Annotated[float, Limits(0)] | None = None
    """Maximum norm of the gradient; None for no limit."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class LoopConfig:
    """Steps, batches, intervals and seed of the training loop."""

    steps: Annotated[int, Limits(1)] = 300_000
    batch: Annotated[int, Limits(1)] = 8
    accumulate: Annotated[int, Limits(1)] = 1
    """Batches whose gradients are averaged for one step."""
    seed: Annotated[int, Limits(0)] = 0
    ema: Share = 0.999
    """Decay of the moving average of the weights."""
    checkpoint_every: Annotated[int, Limits(1)] = 500
    validate_every: Annotated[int, Limits(1)] = 1000
    log_every: Annotated[int, Limits(1)] = 50
    precision: Literal["no", "bf16", "fp16"] = "no"
    """``no`` (float32), ``bf16`` or ``fp16``."""
    channels_last: bool = False
    """Whether weights are in channels-last memory format: faster for convolutional networks, also on a CPU in bf16."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)

    def __post_init__(self) -> None:
        check(self)


def read_config(kind: type[T], path: Path, changes: Sequence[str] = ()) -> T:
    """Read a configuration file as dataclass ``kind``.

    Args:
        kind: a dataclass; fields may be dataclasses themselves.
        path: the YAML file.
        changes: ``dotted.key=value`` each, with values in YAML; they override those of the file.

    Raises:
        UsageError: as ``read_yaml``, ``changed`` and ``from_mapping``.
    """
    return from_mapping(kind, changed(read_yaml(path), parse_changes(changes)), str(path))


@contextmanager
def sizes_of(section: str) -> Iterator[None]:
    """Context in which a network is made from a section of a configuration.

    Raises:
        UsageError: no network has the section's sizes; torch's or diffusers' reason is quoted.
    """
    try:
        yield
    except UnsmearError:
        raise
    except (ValueError, AssertionError, ArithmeticError, LookupError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"`{section}`: no network has these sizes{f' ({reason})' if reason else ''}") from error


def from_mapping(kind: type[T], values: Any, where: str) -> T:
    """Build dataclass ``kind``, with nested dataclasses, from a mapping.

    Where a dataclass has presets, the key ``preset`` names the one that the other keys override.

    Args:
        kind: a dataclass.
        values: the mapping.
        where: name of its source, for messages.

    Raises:
        UsageError: a key, type, value or preset that ``kind`` does not allow; one line with the dotted key, the value
            and what is allowed.
    """
    values = _without_presets(kind, values, where)
    try:
        # As JSON, in which strict validation accepts a list for a tuple.
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True, extra="forbid")
    except ValidationError as error:
        raise UsageError(_explained(kind, values, error, where)) from None
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _without_presets(kind: Any, values: Any, where: str) -> Any:
    """Replace presets in a mapping by their values."""
    if not isinstance(values, Mapping) or not is_dataclass(kind):
        return values
    hints = get_type_hints(kind)
    out = {key: _without_presets(hints.get(key), value, f"{where}: {key}") for key, value in values.items()}
    preset = getattr(kind, PRESET, None)
    if preset is None or PRESET not in out:
        return out
    try:
        return asdict(preset(out.pop(PRESET))) | out
    except ValueError as error:
        raise UsageError(f"{where}.{PRESET}: {error}") from None


def _explained(kind: Any, values: Any, error: ValidationError, where: str) -> str:
    """One line that describes the first error and counts the others."""
    errors = _of_branches_meant(error.errors())
    first = errors[0]
    path: list[str] = []
    hint, value = kind, values
    for part in first["loc"]:
        branch = next((one for one in flat(hint) if is_dataclass(one) and getattr(one, "__name__", "") == part), None)
        if is_dataclass(hint):
            known = get_type_hints(hint, include_extras=True)
            name = ".".join((*path, str(part)))
            if part not in known:
                return f"{where}: unknown key {name!r}; known are {', '.join(sorted(known))}{_others(errors)}"
            if part not in value:
                return f"{where}: {name} is missing: expected {described(known[part])}{_others(errors)}"
            path, hint, value = [*path, str(part)], known[part], value[part]
        elif branch is not None:
            hint = branch
        elif isinstance(part, int) and any(map(is_dataclass, flat(get_args(hint)[0]))):
            path, hint, value = [*path, str(part)], get_args(hint)[0], value[part]
        else:
            break
    own = first.get("ctx", {}).get("error")
    if isinstance(own, OptionError):
        return f"{where}: {'.'.join((*path, own.field))} {shown(own.value)}: expected {own.expected}{_others(errors)}"
    if own is not None:
        return f"{where}: {'.'.join(path)}{': ' if path else ''}{own}"
    return f"{where}: {'.'.join(path) or 'top level'} {_as_yaml(value)}: expected {described(hint)}{_others(errors)}"


def _as_yaml(value: Any) -> str:
    """A value of the wrong type, so that its type can be seen: quotes around text that would be read as another one."""
    if isinstance(value, str):
        return shown(value) if isinstance(_parsed_or_text(value), str) else f"'{shown(value)}'"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else shown(value)


def _parsed_or_text(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError:
        return text


def _of_branches_meant(errors: Sequence[Any]) -> list[Any]:
    """Errors of fields that allow text or a mapping, reduced to those of the alternative that the value has."""
    places = [error["loc"] for error in errors]

    def besides(error: Any) -> bool:
        place, last = error["loc"][:-1], error["loc"][-1:]
        below = any(len(other) > len(place) + 1 and other[: len(place)] == place for other in places)
        return (last == ("str",) and below) or (error["type"] == "dataclass_type" and (*place, "str") in places)

    return [error for error in errors if not besides(error)]


def _others(errors: Sequence[Any]) -> str:
    others = len({tuple(map(str, error["loc"])) for error in errors}) - 1
    return f" (and {others} more)" if others else ""


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Parse ``dotted.key=value`` to values by dotted key. Raises UsageError: no ``=``, or a value that is not YAML."""
    out = {}
    for text in changes:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise UsageError(f"{text}: expected KEY=VALUE, such as loop.steps=100")
        out[key] = _parsed(value, text)
    return out


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Copy of ``values`` with some replaced by dotted keys.

    Raises:
        UsageError: a key below a value that is not a mapping.
    """
    out = dict(values)
    for key, value in changes.items():
        *path, last = key.split(".")
        place = out
        for i, part in enumerate(path):
            below = place.get(part, {})
            if not isinstance(below, Mapping):
                raise UsageError(f"{key}: {'.'.join(path[: i + 1])} is {shown(below)}, which has no keys below it")
            place[part] = dict(below)
            place = place[part]
        place[last] = value
    return out


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the top-level mapping of a YAML file, merged over that of its ``base``.

    Raises:
        UsageError: a file is missing, is not YAML, or holds no mapping; bases form a cycle.
    """
    return _read_with_bases(path, ())


def _read_with_bases(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise UsageError(f"{path}: is its own base, by way of {above[-1].name}; take one of the bases out")
    try:
        values = _parsed(path.read_text(), str(path))
    except FileNotFoundError:
        by = f", which {above[-1].name} names as its base" if above else ""
        raise UsageError(f"{path} does not exist{by}: give a training configuration (YAML)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): give a training configuration (YAML)") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected a mapping at the top level")
    base = values.pop(BASE, None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UsageError(f"{path}: {BASE} {shown(base)}: expected the name of a file")
    return _merged(_read_with_bases(path.parent / base, (*above, path.resolve())), values)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        out[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: PyYAML's own is 1.1, where ``1e-4`` is text and ``no`` is false."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # as PyYAML declares it

    def construct_document(self, node: yaml.Node) -> Any:
        self.deep_construct = True  # so that a node that contains itself is an error
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        return int(node.value, 0) if node.value[:2] in ("0x", "0o") else int(node.value)


_NUMBER = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", _NUMBER, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)
for _tag in ("binary", "timestamp", "omap", "pairs", "set"):  # tags of 1.1: no option holds such values
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_undefined)  # type: ignore[type-var]


def _parsed(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
