"""What to run, as data: frozen, comparable, JSON in and out. No torch.

A named recipe is the paper's text (`paper`), one of its two released codes, or what the paper of another network did. A
data set may change it where the paper itself does (SVHN). Whatever else differs from the name is a deviation, and is
reported with the result.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from wrn.data.catalog import DATASETS, Augment, Padding, Preprocess, entry, streams
from wrn.errors import UsageError, unknown
from wrn.models.families import Spec
from wrn.models.names import parse
from wrn.named_recipes import RECIPES as RECIPES


def knob(default: Any, meaning: str) -> Any:
    """A field with a one-line meaning, which is also the help of the flag that sets it."""
    return dataclasses.field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a trained network, but for the seed and the hardware. Made by `wrn.recipe`."""

    recipe: str = knob("paper", "the named recipe this one began as")
    model: str = knob("wrn-16-1", "the network's name")
    data: str = knob("digits", "the data set: a name of the catalogue, or folder:PATH")
    # The network
    depth_rule: Literal["true", "nominal"] | None = knob(
        None, "what depth n means: 3lN + 4 (true) or, whatever l, 6N + 4 (nominal, Table 2)"
    )
    dropout: float = knob(0.0, "probability of dropping an activation between a block's convolutions")
    drop_path: float | None = knob(
        None,
        "stochastic depth: probability of dropping the last block, earlier ones less (if not given: the network's own)",
    )
    drop_path_per: Literal["batch", "sample"] = knob("batch", "whether stochastic depth draws per batch or per image")
    conv_init: Literal["fan-in", "fan-out", "published"] = knob(
        "fan-in", "fan that scales normally drawn convolution weights; published: all weights as in the network's paper"
    )
    bn_init: Literal["ones", "uniform"] = knob("ones", "initial BN scale: 1, or U(0, 1)")
    linear_init: Literal["uniform", "normal"] = knob("uniform", "initial classifier: U(+-1/sqrt(n)), or N(0, 2/n)")
    # The data
    image_size: int = knob(32, "side of the square images, in pixels")
    preprocess: Preprocess = knob(
        "meanstd", "mean/std, the authors' or the data's own; /255; GCN + ZCA; GCN; GCN or pixels minus mean image"
    )
    augment: Augment = knob(
        "flip-crop",
        "mirror half, reflect-pad 4 and crop; v1: one offset a batch; imagenet: scale, aspect, colour",
    )
    pad: int = knob(4, "pixels of padding in flip-crop and v1")
    padding: Padding = knob("reflect", "how flip-crop and v1 pad")
    val: int = knob(0, "training images held out, balanced by class, to select the epoch; 0: use the last epoch")
    labels: int | None = knob(None, "how many training images to keep, equally many per class; the others are left out")
    label_noise: float = knob(0.0, "share of the training images that get a wrong label")
    val_fraction: float = knob(0.0, "share of the training pictures held out for testing where there is no test split")
    # What is minimised
    loss: Literal["cross-entropy", "squared-hinge"] = knob("cross-entropy", "the loss of the logits")
    label_smoothing: float = knob(0.0, "share of each label's weight that is spread evenly over all classes")
    stages: tuple[int, ...] = knob(
        (), "first epoch of each later stage of the network's own training procedure; counted from 1"
    )
    teacher: str | None = knob(None, "a finished run, or its model.safetensors, to distil from")
    hint: str | None = knob(None, "teacher module whose output is the hint (if not given: the first of a fitting size)")
    temperature: float = knob(3.0, "distillation temperature, which divides both networks' logits")
    teacher_weight: float = knob(4.0, "initial weight of the distillation loss, beside 1 for the labels' loss")
    teacher_weight_end: float = knob(1.0, "final weight of the distillation loss")
    teacher_fade: tuple[float, ...] = knob(
        (0.0, 1.0), "start and end of that weight's linear change, as shares of the epochs with distillation"
    )
    # The optimisation
    optimizer: Literal["sgd", "rmsprop", "muon"] = knob("sgd", "SGD with momentum, RMSProp, or Muon for convolutions")
    epochs: int = knob(200, "passes over the training set")
    batch_size: int = knob(128, "images a step")
    sampling: Literal["shuffled", "importance"] = knob(
        "shuffled", "an epoch's images: each once, or drawn by the length of their last gradient, and weighted for it"
    )
    lr: float = knob(0.1, "initial learning rate; with one-cycle, the peak")
    schedule: Literal["steps", "one-cycle"] = knob(
        "steps", "drops at the milestones; or linearly from 0 up and down to 0, updated at every step"
    )
    warmup: float = knob(0.2, "share of the steps in which the one-cycle rate rises")
    lr_decay: float = knob(0.2, "what multiplies the learning rate at each milestone")
    milestones: tuple[int, ...] = knob((60, 120, 160), "epochs before which the rate drops; counted from 1")
    rates: tuple[float, ...] = knob((), "learning rate from each milestone on, if not by a single factor")
    momentum: float = knob(0.9, "momentum of SGD, without dampening; decay of RMSProp's mean square")
    nesterov: bool = knob(True, "Nesterov's form of momentum")
    reset_momentum: bool = knob(False, "reset the momentum at each drop of the learning rate")
    weight_decay: float = knob(
        5e-4, "L2 penalty, added to every gradient, those of BN and biases included; Muon: of all but convolutions"
    )
    matrix_decay: float = knob(0.0, "Muon's decoupled weight decay: each step scales its matrices by 1 - lr * this")
    layer_rules: bool = knob(False, "per-layer rates, weight decay and norm limits of the network's own paper")
    drop_last: bool = knob(False, "leave out the last, smaller batch of each epoch")
    bn_window: float = knob(0.0, "share of the steps that BN's running statistics average over; 0: about ten, as torch")

    def __post_init__(self) -> None:
        _check(self)

    def lr_at(self, epoch: int, done: float = 0.5) -> float:
        """The learning rate of an epoch, counted from 1: a pure function of it. Raises ValueError outside 1..epochs.

        That of one-cycle changes within the epoch: it is the rate when the share `done` of the epoch is over.
        """
        if not 1 <= epoch <= self.epochs:
            raise UsageError(f"epoch {epoch}: outside 1..{self.epochs}")
        if self.schedule == "one-cycle":
            over = (epoch - 1 + done) / self.epochs
            return self.lr * (over / self.warmup if over < self.warmup else (1 - over) / (1 - self.warmup))
        drops = sum(epoch >= milestone for milestone in self.milestones)
        if drops and self.rates:
            return self.rates[drops - 1]
        # In decimals: 0.1 * 0.2 * 0.2 is 0.004, not 0.004000000000000001
        return float(f"{self.lr * self.lr_decay**drops:.12g}")

    def stage_at(self, epoch: int) -> int:
        """The stage of the network's own procedure, counted from 0."""
        return sum(epoch >= start for start in self.stages)

    def drops_at(self, epoch: int) -> bool:
        """Whether the learning rate falls just before this epoch."""
        return self.schedule == "steps" and epoch > 1 and self.lr_at(epoch) < self.lr_at(epoch - 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Recipe":
        """The recipe of a `to_dict`. Raises ValueError for unknown fields and for values that make no sense."""
        if not isinstance(fields, Mapping):
            raise UsageError(f"recipe {fields!r}: not an object of fields")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name == "seed":
                raise UsageError("recipe field seed: is none; it goes to wrn.train(recipe, seed=), --seed")
            if name not in known:
                raise unknown("recipe field", name, known)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        values = {name: _plain(value) for name, value in values.items()}
        for name, kind in _kinds().items():
            if kind in (float, float | None) and type(values.get(name)) is int:  # 1 and 1.0 are one, with one hash
                values[name] = float(values[name])
            if kind == tuple[float, ...] and isinstance(values.get(name), tuple):
                values[name] = tuple(float(v) if type(v) is int else v for v in values[name])
        return cls(**values)

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits that stand for the whole recipe; part of a run folder's name.

        It covers only what differs from the defaults, so that fields added later do not rename old recipes' runs.
        """
        defaults = Recipe().to_dict()
        told = {name: value for name, value in self.to_dict().items() if value != defaults[name]}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]

    def deviations(self) -> dict[str, dict[str, Any]]:
        """Every field that differs from the named recipe for this network and data: {field: {recipe:, here:}}.

        A schedule that is scaled to `epochs` does not differ.
        """
        named = _named(self.recipe, self.model, self.data)
        # Values, not a recipe: the named one's stages may not fit into so few epochs, where those given do
        usual = vars(named) | _scaled(named, self.epochs) | {"epochs": named.epochs}
        return {n: {"recipe": usual[n], "here": here} for n, here in vars(self).items() if here != usual[n]}


@cache
def _kinds() -> dict[str, Any]:
    """The types of a recipe's fields; cached, as finding them takes longer than all else in making one."""
    return get_type_hints(Recipe)


def _named(name: str, model: str, data: str) -> Recipe:
    if name not in RECIPES:
        raise unknown("recipe", name, [*RECIPES, "own"])
    named, known = RECIPES[name], entry(data).recipe
    if not named.of_the_paper:  # the data's own treatment alone, for one does not mirror digits
        known = {field: known[field] for field in ("image_size", "preprocess", "augment") if field in known}
        if data.startswith("folder:"):  # whose pictures can be treated in any way
            known = {field: value for field, value in known.items() if field not in named.fields}
    fields = {"recipe": name, "model": model, "data": data, **named.fields, **known, **named.on.get(data, {})}
    return Recipe.from_dict(fields | _possible_sampling(vars(Recipe()) | fields))


def _scaled(named: Recipe, epochs: int) -> dict[str, Any]:
    """The fields of the schedule for that many epochs: each drop and stage at the same share, or just after it."""

    def first(epoch: int) -> int:
        return -(-(epoch - 1) * epochs // named.epochs) + 1

    return {
        "epochs": epochs,
        "milestones": tuple(map(first, named.milestones)),
        "stages": tuple(map(first, named.stages)),
    }


def recipe(model: str, *, data: str, recipe: str = "paper", **fields: Any) -> Recipe:
    """The named recipe for a network on a data set, with `fields` changed. "own": that of the network's own paper.

    With `epochs` changed milestones and stages scale; those given are taken as they stand. RMSProp turns Nesterov off,
    one-cycle leaves the milestones out; where images cannot be drawn by importance, `fast` shuffles them.
    Raises ValueError for unknown names and fields, and for values that make no sense.
    """
    must_name_a_network(model)
    name, _, path = data.partition(":")
    if path:
        data = f"{name}:{os.path.normpath(path)}"  # one folder, one hash
    if recipe == "own":
        recipe = parse(model, fields.get("depth_rule")).recipe
    named = _named(recipe, model, data)
    given = {name: _plain(value) for name, value in fields.items() if value is not None}
    changed = dict(entry(data).shortened) | given
    if type(epochs := changed.get("epochs")) is int and epochs > 0:  # others are refused below
        changed = _scaled(named, epochs) | changed
    if changed.get("schedule") == "one-cycle":
        changed |= {"milestones": given.get("milestones", ())}
    if changed.get("optimizer") == "rmsprop":
        changed = {"nesterov": False} | changed
    if "teacher" in changed:
        changed["teacher"] = os.path.normpath(changed["teacher"])
    spec = parse(model, changed.get("depth_rule"))
    with suppress(UsageError):  # a rule that changes nothing is not part of the recipe
        if parse(model) == spec:
            changed["depth_rule"] = None
    wanted = named.to_dict() | changed | {"model": spec.name}
    made = Recipe.from_dict(wanted | ({} if "sampling" in given else _possible_sampling(wanted)))
    _refuse_idle(made, spec, given)
    return made


def _can_draw(fields: Mapping[str, Any]) -> bool:
    """Whether a recipe's loss says how important a sample is."""
    return fields["loss"] == "cross-entropy" and fields["teacher"] is None and fields["model"] != "dsn"


def _possible_sampling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's own, where it can be; elsewhere images are shuffled."""
    possible = _can_draw(fields) and not streams(fields["data"], fields["augment"])
    return {} if possible else {"sampling": "shuffled"}


def taught_by(recipe: Recipe, teacher: str) -> Recipe:
    """The recipe with that teacher; its own sampling gives way where it cannot be, as in `recipe`."""
    fields = recipe.to_dict() | {"teacher": teacher}
    return Recipe.from_dict(fields | ({} if "sampling" in recipe.deviations() else _possible_sampling(fields)))


def must_name_a_network(model: str) -> None:
    """Raise ValueError where a data set's name is given for a network's."""
    if isinstance(model, str) and model.partition(":")[0] in DATASETS:
        raise UsageError(f"model {model!r}: is a data set; name a network first: wrn-16-4 --data {model}")


def _refuse_idle(recipe: Recipe, spec: Spec, given: Mapping[str, Any]) -> None:
    """Raise ValueError for a given field that would change nothing, and for what only other networks' papers have."""
    own = RECIPES[spec.recipe].fields
    special = {
        "conv_init": recipe.conv_init == "published",
        "layer_rules": recipe.layer_rules,
        "stages": bool(recipe.stages),
    }
    for name in special:
        if special[name] and name not in own:
            origin = "" if name in given else f" of recipe {recipe.recipe}"
            raise UsageError(
                f"{name} {getattr(recipe, name)}{origin}: the paper of {spec.name} has none; leave it out, or take "
                "--recipe own"
            )
    if "milestones" in given and (late := [epoch for epoch in recipe.milestones if epoch > recipe.epochs]):
        raise UsageError(f"milestones {late}: training ends with epoch {recipe.epochs}; leave them out")
    padless = recipe.augment not in ("flip-crop", "v1") and f"augment {recipe.augment} does not pad"
    one_cycle = recipe.schedule == "one-cycle"
    dropless = (one_cycle and "one-cycle has no drops") or (
        all(epoch > recipe.epochs for epoch in recipe.milestones) and "the rate has no drops"
    )
    drawn = recipe.conv_init == "published" and "conv_init published draws all weights"
    idle = {
        "pad": padless,
        "padding": padless or (recipe.pad == 0 and "pad is 0"),
        "lr_decay": (recipe.rates and "the rates are given one by one") or dropless,
        "reset_momentum": recipe.reset_momentum and (dropless or (recipe.momentum == 0 and "there is no momentum")),
        "warmup": recipe.schedule == "steps" and "the schedule has none",
        "matrix_decay": recipe.optimizer != "muon" and f"{recipe.optimizer} has none",
        "bn_init": drawn or (not spec.batch_norm and f"{spec.name} has no BN"),
        "bn_window": not spec.batch_norm and f"{spec.name} has no BN",
        "linear_init": drawn or (not spec.linear and f"{spec.name} has no linear layer"),
        "hint": not (recipe.stages and recipe.model == "fitnet") and "there is no stage of hints",
    }
    for name in given:
        if reason := idle.get(name):
            raise UsageError(f"{name} {given[name]}: changes nothing, since {reason}; leave it out")


def _check(recipe: Recipe) -> None:
    """Raise ValueError where a field's type or value makes no sense."""
    for name, kind in _kinds().items():
        if not _is_of(getattr(recipe, name), kind):
            raise UsageError(f"recipe field {name}: {getattr(recipe, name)!r} is not {_in_words(kind)}")
    limits = {
        "dropout": (0.0 <= recipe.dropout < 1.0, "a probability in [0, 1)"),
        "drop_path": (recipe.drop_path is None or 0.0 <= recipe.drop_path < 1.0, "a probability in [0, 1)"),
        "stages": (
            all(a < b for a, b in pairwise((1, *recipe.stages, max(recipe.epochs, 1) + 1))),
            f"rising epochs after the first, up to the last, which is {recipe.epochs}; raise --epochs, or give others",
        ),
        "temperature": (0 < recipe.temperature < float("inf"), "a positive number"),
        "teacher_weight": (0 <= recipe.teacher_weight < float("inf"), "zero or more"),
        "teacher_weight_end": (0 <= recipe.teacher_weight_end < float("inf"), "zero or more"),
        "teacher_fade": (
            len(recipe.teacher_fade) == 2 and 0 <= recipe.teacher_fade[0] < recipe.teacher_fade[1] < float("inf"),
            "two shares, the first below the second",
        ),
        "rates": (
            len(recipe.rates) in (0, len(recipe.milestones)) and all(0 < rate < float("inf") for rate in recipe.rates),
            f"as many positive numbers as there are milestones ({len(recipe.milestones)}); give both",
        ),
        "val": (recipe.val >= 0, "zero or more images"),
        "labels": (
            recipe.labels is None or recipe.labels >= (recipe.batch_size if recipe.drop_last else 1),
            f"at least {recipe.batch_size}: the recipe leaves smaller batches out"
            if recipe.drop_last
            else "at least 1",
        ),
        "label_noise": (0.0 <= recipe.label_noise < 1.0, "a share in [0, 1)"),
        "val_fraction": (0.0 <= recipe.val_fraction < 1.0, "a share in [0, 1)"),
        "image_size": (
            5 <= recipe.image_size <= 10_000,
            "at least 5, so that two halvings leave more than one pixel for BN to see, and at most 10,000",
        ),
        "pad": (0 <= recipe.pad < recipe.image_size, "zero or more, and less than the image size"),
        "epochs": (1 <= recipe.epochs <= 1_000_000, "at least 1 and at most a million"),
        "batch_size": (1 <= recipe.batch_size <= 1_000_000, "at least 1 and at most a million"),
        "sampling": (
            recipe.sampling == "shuffled" or _can_draw(vars(recipe)),
            "shuffled where there is a teacher, companions (dsn) or another loss than cross-entropy",
        ),
        "lr": (0.0 < recipe.lr < float("inf"), "a positive number"),
        "lr_decay": (0.0 < recipe.lr_decay <= 1.0, "a factor in (0, 1]"),
        "milestones": (
            all(m >= 1 for m in recipe.milestones)
            and list(recipe.milestones) == sorted(recipe.milestones)
            and (recipe.schedule == "steps" or not recipe.milestones),
            "epochs counted from 1, in their order; with one-cycle none",
        ),
        "warmup": (0.0 < recipe.warmup < 1.0, "a share in (0, 1)"),
        "bn_window": (0.0 <= recipe.bn_window < 1.0, "a share in [0, 1)"),
        "label_smoothing": (
            recipe.label_smoothing == 0 or (0 < recipe.label_smoothing < 1 and recipe.loss == "cross-entropy"),
            "a share in [0, 1), with cross-entropy",
        ),
        "matrix_decay": (0.0 <= recipe.matrix_decay < float("inf"), "zero or more"),
        "momentum": (0.0 <= recipe.momentum < 1.0, "in [0, 1)"),
        "nesterov": (
            (not recipe.nesterov and recipe.optimizer != "muon")
            or (recipe.nesterov and recipe.momentum > 0 and recipe.optimizer != "rmsprop"),
            "true with Muon, false with RMSProp and with momentum 0",
        ),
        "reset_momentum": (
            not recipe.reset_momentum or recipe.optimizer != "rmsprop",
            "false: RMSProp has no momentum",
        ),
        "weight_decay": (0.0 <= recipe.weight_decay < float("inf"), "zero or more"),
    }
    for name, (fits, must_be) in limits.items():
        if not fits:
            raise UsageError(f"{name} {getattr(recipe, name)}: out of range; it must be {must_be}")


def _plain(value: Any) -> Any:
    """A number of NumPy's as Python's own, as JSON has it; all else as it is."""
    if isinstance(value, tuple):
        return tuple(_plain(each) for each in value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _is_of(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_of(item, get_args(kind)[0]) for item in value)
    if get_args(kind):  # a union
        return any(_is_of(value, part) for part in get_args(kind))
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _in_words(kind: Any) -> str:
    choices = [
        str(choice) for part in (kind, *get_args(kind)) if get_origin(part) is Literal for choice in get_args(part)
    ]
    if choices:
        return "one of " + ", ".join(choices)
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(kind, "whole numbers")
