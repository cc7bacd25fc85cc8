"""Options that several subcommands share: their types, names of values and help. No torch."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from tyro.conf import Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from wrn.data.catalog import AUGMENTATIONS, PREPROCESSING, Augment, Preprocess
from wrn.recipes import Recipe


def option(meaning: str, metavar: str | None = None) -> Any:
    """The help of one option; its text states the default itself."""
    return arg(metavar=metavar, help=meaning, help_behavior_hint="")


def choice(*names: str) -> Any:
    """What reads one of the names. tyro's own would offer None beside them, in an order that changes."""

    def read(words: list[str]) -> str:
        if words[0] not in names:
            raise ValueError(f"{words[0]!r} must be {', '.join(names[:-1])} or {names[-1]}")
        return words[0]

    return PrimitiveConstructorSpec(
        1, "|".join(names), read, lambda value: value in (None, *names), lambda value: [str(value)]
    )


Device = Annotated[str | None, option("where to compute (default: the fastest here)", "cpu|cuda|cuda:1|mps")]
Precision = Annotated[
    Literal["fp32", "tf32", "bf16"] | None,
    choice("fp32", "tf32", "bf16"),
    option("arithmetic of training (default: the fastest here)"),
]
Root = Annotated[str | None, option("a folder that has the data set's files already", "FOLDER")]
Workers = Annotated[int | None, option("threads or processes that decode pictures (default: all cores)", "INT")]
DataName = Annotated[Positional[str], option("such as cifar10 or folder:PATH; see `wrn data list`", "DATA")]
ImageSize = Annotated[int | None, option("side of the square images (default: the recipe's)", "INT")]
ValFraction = Annotated[float | None, option("share held out, of pictures without a test split", "FLOAT")]
Prep = Annotated[Preprocess | None, choice(*PREPROCESSING), option("default: the recipe's")]
Aug = Annotated[Augment | None, choice(*AUGMENTATIONS), option("default: the recipe's")]
RunPath = Annotated[Positional[str], option("a finished run's folder, or its model.safetensors", "RUN")]
Native = Annotated[
    Literal["true", "false"] | None,
    choice("true", "false"),
    option("our own CPU kernels; need a C++ compiler (default: if available, but not with --precision fp32)"),
]
Optimize = Annotated[bool, option("use the fastest form here: BN folded, bf16 where that is accurate enough")]
Json = Annotated[bool, option("print JSON")]


def truth(word: Literal["true", "false"] | None) -> bool | None:
    """What a flag with three answers says: yes, no, or nothing."""
    return None if word is None else word == "true"


_SET_ELSEWHERE = ("recipe", "model", "data")


_METAVARS: dict[Any, str] = {
    int: "INT",
    int | None: "INT",
    float: "FLOAT",
    float | None: "FLOAT",
    str | None: "NAME",
    tuple[int, ...]: "INT [INT ...]",
    tuple[float, ...]: "FLOAT [FLOAT ...]",
}


def _flag(field: dataclasses.Field[Any], kind: Any) -> Any:
    """An optional flag for one field of a recipe: None leaves the named recipe's value alone."""
    help_: str = field.metadata["meaning"]
    if kind is bool:
        kind = Literal["true", "false"]
    if names := [name for part in (kind, *get_args(kind)) if get_origin(part) is Literal for name in get_args(part)]:
        return Annotated[kind | None, choice(*names), option(help_)]
    return Annotated[kind | None, option(help_, _METAVARS[kind])]


_HINTS = get_type_hints(Recipe)
RecipeFlags = dataclasses.make_dataclass(
    "RecipeFlags",
    [(f.name, _flag(f, _HINTS[f.name]), None) for f in dataclasses.fields(Recipe) if f.name not in _SET_ELSEWHERE],
)
"""A flag for each field of a recipe that has not an argument of its own."""
RecipeFlags.__doc__ = "By default as the recipe has them."


def fields_of(flags: Any) -> dict[str, Any]:
    """The fields that were given, as `wrn.recipe` takes them."""
    given = {name: value for name, value in vars(flags).items() if value is not None}
    return given | {name: value == "true" for name, value in given.items() if _HINTS[name] is bool}


def words_of(fields: Mapping[str, Any]) -> list[str]:
    """The command line that gives those fields, `recipe` among them."""
    words = []
    for name, value in fields.items():
        values = value if isinstance(value, tuple) else (value,)
        words.append(f"--{name.replace('_', '-')}")
        words += [str(each).lower() if isinstance(each, bool) else str(each) for each in values]
    return words
