"""Models and options of the rows of stage 2 (CPGD-Net, Tables II and IV; our options)."""

from collections.abc import Callable, Mapping
from typing import Any

from safetensors import safe_open

from unsmear.errors import UsageError
from unsmear.evaluation.variants import Variant
from unsmear.models import zoo
from unsmear.restore.cpgd import CPGDRestorer
from unsmear.restore.restorer import Restorer

DEFAULT = "cpgd"
"""Name of the shipped model of stage 2."""

_NO_GENERATOR = (
    "needs a model that generates (`unsmear train cpgd`, `unsmear models import`): give full=DIR as `models`"
)

UNCONTROLLED = {
    "guided": True,
    "shared_query": False,
    "prior_width": None,
    "joint_time_attention": False,
    "prior_form": "fixed",
}
"""Default options of control networks, for those that are missing in a configuration."""


class Generators:
    """Models of stage 2 for the rows of a table.

    Args:
        load: name or folder of a model → restorer.
        models: model of each row, by key. That of ``full``, else the shipped one, is used for all rows without a model
            of their own whose options its weights allow.
        variants: rows of the table.

    Raises:
        UsageError: a folder without a model of stage 2, or with another configuration than its row requires.
    """

    def __init__(self, load: Callable[[str], Restorer], models: Mapping[str, str], variants: tuple[Variant, ...]):
        self.load, self.models = load, models
        shipped = DEFAULT if any(entry.name == DEFAULT for entry in zoo.shipped()) else None
        generating = any(variant.part == "stage 2" for variant in variants)
        self.full = models.get("full", shipped) if generating else None
        self._loaded: CPGDRestorer | None = None
        for variant in variants:
            if variant.part == "stage 2" and variant.key in models:
                self._check(variant, models[variant.key])

    @property
    def first(self) -> Restorer | None:
        """Stage 1 of the full model; None where no row generates, or it was trained on the blurred frames."""
        return self._full().first if self.full else None

    def shares(self, variant: Variant) -> bool:
        """Whether a row uses the weights of ``full`` with options that they were not trained for."""
        return bool(variant.blurred_hint or variant.trained) and variant.key not in self.models

    def reason(self, variant: Variant) -> str:
        """Reason why a row of stage 2 cannot be measured; empty where it can."""
        if variant.key in self.models:
            return ""
        if variant.only_trained and not (self.full and self._equals_full(variant)):
            return f"needs {variant.only_trained}: give {variant.key}=DIR as `models`"
        if not self.full:
            return _NO_GENERATOR
        return "same as `full`" if self._equals_full(variant) else ""

    def model(self, variant: Variant) -> str:
        """Name or folder of the model of a row."""
        return self.models.get(variant.key) or self.full or ""

    def restorer(self, variant: Variant) -> Restorer:
        """Restorer of a row whose ``reason`` is empty.

        A model without its own stage 1 is run after that of a given ``full`` model, so that the rows are comparable.
        """
        model = self.model(variant)
        inner = self._full() if model == self.full else _generating(self.load(model), model)
        name = f"{inner.name}-{variant.key}"
        entry = zoo.find(model)
        if "full" in self.models and not (entry.folder / zoo.STAGE_1).is_dir() and "first_stage" not in entry.trained:
            inner = inner.after(self._full().first)
        return inner.changed(name, blurred_hint=variant.blurred_hint, **variant.sampling)

    def _full(self) -> CPGDRestorer:
        assert self.full is not None
        if self._loaded is None:
            self._loaded = _generating(self.load(self.full), self.full)
        return self._loaded

    def _equals_full(self, variant: Variant) -> bool:
        full = self._full()
        config, sampling = dict(full.pipe.control.config), vars(full.sampling)
        if sampling["joint_time_attention"] is not None:
            config["joint_time_attention"] = sampling["joint_time_attention"]
        if variant.trained:
            return _has(config, variant.trained)
        return bool(variant.sampling) and _has(sampling, variant.sampling)

    def _check(self, variant: Variant, model: str) -> None:
        entry = zoo.find(model)
        if entry.kind != "CPGDPipeline":
            raise UsageError(
                f"`models` {variant.key}={model}: no model that generates; give a folder with unet, vae and control"
            )
        control = entry.parts.get("control")
        config = UNCONTROLLED | (control.config if control else {})
        for name, required in variant.trained.items():
            if name == "guided" and control and _priors_unused(control):
                continue  # an unchanged IRControlNet; the row samples without priors anyway
            if config[name] != required:
                raise UsageError(
                    f"`models` {variant.key}={model}: its control network has {name}: {_yaml(config[name])}; "
                    f"give one trained with {name}: {_yaml(required)}"
                )


def _priors_unused(control: zoo.ModelEntry) -> bool:
    """True for a control network whose output does not depend on the priors, as one imported from DiffBIR."""
    ending = ".mask.weight" if control.config.get("shared_query") else ".to_qm.weight"
    with safe_open(control.weights, "pt") as file:
        keys = [key for key in file.keys() if key.endswith(ending)]  # noqa: SIM118  # it is no mapping
        return not any(bool(file.get_tensor(key).any()) for key in keys)


def _generating(restorer: Restorer, model: str) -> CPGDRestorer:
    if not isinstance(restorer, CPGDRestorer):
        raise UsageError(f"{model} is not a model of CPGD-Net's stage 2; give a folder with unet, vae and control")
    return restorer


def _has(config: Mapping[str, Any], required: Mapping[str, Any]) -> bool:
    return all(config[name] == value for name, value in required.items())


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower()
