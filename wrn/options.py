"""Options that several subcommands share: their types, names of values and help. No torch."""

from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from wrn.data.catalog import AUGMENTATIONS, PREPROCESSING, Augment, Preprocess


def option(meaning: str, metavar: str | None = None) -> Any:
    """The help of one option, whose default the text itself tells."""
    return arg(metavar=metavar, help=meaning, help_behavior_hint="")


Device = Annotated[str | None, option("where to compute (default: the fastest here)", "cpu|cuda|cuda:1|mps")]
Precision = Annotated[
    Literal["fp32", "bf16"] | None, option("arithmetic of training (default: the fastest here)", "fp32|bf16")
]
Root = Annotated[str | None, option("a folder that has the data set's files already", "FOLDER")]
Workers = Annotated[int | None, option("threads or processes that decode pictures (default: all cores)", "INT")]
DataName = Annotated[Positional[str], option("such as cifar10 or folder:PATH; see `wrn data list`", "DATA")]
ImageSize = Annotated[int | None, option("side of the square images (default: the recipe's)", "INT")]
Prep = Annotated[Preprocess | None, option("default: the recipe's", "|".join(PREPROCESSING))]
Aug = Annotated[Augment | None, option("default: the recipe's", "|".join(AUGMENTATIONS))]
RunPath = Annotated[Positional[str], option("a finished run's folder, or its model.safetensors", "RUN")]
Native = Annotated[
    Literal["true", "false"] | None,
    option("our kernels, for bf16 on a CPU with AVX512-BF16; need a C++ compiler (default: if possible)", "true|false"),
]
Optimize = Annotated[bool, option("as it is fastest on this machine: bf16 where that is near enough, BN folded")]
Json = Annotated[bool, option("print JSON")]


def truth(word: Literal["true", "false"] | None) -> bool | None:
    """What a flag with three answers says: yes, no, or nothing."""
    return None if word is None else word == "true"
