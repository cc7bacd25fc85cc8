"""Names of networks: "wrn-40-2-b(3,1,3)" <-> a spec; and the networks the paper names. No torch.

To add a network: its file, a line in `families.FIXED` (or a function in FAMILIES that reads its names), one in MODELS.
"""

import re
from collections.abc import Callable

from wrn.errors import UsageError, unknown
from wrn.models import families
from wrn.models.families import DepthRule, Spec, blocks_per_group, digits_of, number, wide_resnet_name
from wrn.paper import rows

_LARGEST = 4_000  # the deepest network in the paper has 1,202 layers

FAMILIES: dict[str, Callable[[str, DepthRule | None], Spec | None]] = {
    "wrn-<depth>-<widen factor>[-b<kernels>], such as wrn-28-10 or wrn-40-2-b313": families.wide_resnet,
    "wrn-<depth>-<widen factor>-imagenet or -bottleneck, [pre-]resnet-<depth>": families.imagenet,
    "[pre-]resnet-<depth>-cifar": families.thin,
    "stochastic-depth-<depth>": families.stochastic_depth,
    "or one of `wrn list models`": families.fixed,
}
"""How names read, and what reads them."""


def parse(name: str, depth_rule: DepthRule | None = None) -> Spec:
    """Read a network's name: `wrn-28-10`, `WRN-28-10`, `wrn_28_10`, `wrn-40-2-b(3,1,3)`, `resnet-110`, `nin`.

    Raises ValueError for a name of no network, a depth that fits no N, and a name that the two depth rules
    read as two different networks while `depth_rule` does not choose.
    """
    if depth_rule not in (None, "true", "nominal"):
        raise unknown("depth rule", str(depth_rule), ["true", "nominal"])
    if not isinstance(name, str):
        raise UsageError(f"model: a {type(name).__name__} is no name; give one such as 'wrn-16-4'")
    written = name.strip().lower().replace("_", "-").replace(" ", "")
    if any(float(each) > _LARGEST for each in re.findall(r"-(\d+(?:\.\d+)?)", written)):
        raise UsageError(f"model {name[:100]!r}: depths and widen factors end at {_LARGEST:,}")
    for read in FAMILIES.values():
        if spec := read(written, depth_rule):
            if depth_rule and read is not families.wide_resnet:
                raise UsageError(f"depth rule {depth_rule}: {spec.name} has no blocks B(M) to count; leave it out")
            return spec
    near = re.sub(r"^wide-?res-?net-?(?=\d)|^wrn(?=\d)", "wrn-", written)  # as others write them
    near = re.sub(r"^wrn-(50|101)-(\d+)$", r"wrn-\1-\2-bottleneck", near)  # torchvision's wide_resnet50_2
    if near != written:
        raise UsageError(f"model {name!r}: no such model; did you mean {parse(near, depth_rule).name}?")
    raise unknown("model", name, MODELS, hint=f"; a name reads {', '.join(FAMILIES)}")


def rule_of(source: str) -> DepthRule | None:
    """The depth rule that a line of MODELS names, if its network needs one."""
    return "nominal" if "nominal" in source else "true" if "--depth-rule true" in source else None


def _wide_resnets() -> dict[str, str]:
    tables: dict[str, list[str]] = {}
    for table in ("table2", "table3", "table4", "table6", "table9"):
        for row in rows(table):
            if row.get("N"):
                rule: DepthRule = "nominal" if table == "table2" else "true"
                name = wide_resnet_name(row["depth"], row["k"], digits_of(row["block"]))
                ambiguous = blocks_per_group(row["depth"], row["l"], "true") != blocks_per_group(
                    row["depth"], row["l"], "nominal"
                )
                source = f"Table {table[5:]}" + (f" (--depth-rule {rule})" if ambiguous else "")
                if source not in tables.setdefault(name, []):
                    tables[name].append(source)
    return {name: ", ".join(sources) for name, sources in sorted(tables.items())}


MODELS: dict[str, str] = _wide_resnets() | {
    "pre-resnet-110": "Table 5; He et al. 2016",
    "pre-resnet-164": "Table 5, Figures 2, 4; He et al. 2016",
    "pre-resnet-1001": "Table 5, Figure 4; He et al. 2016",
    "resnet-110": "Table 5; He et al. 2015",
    "resnet-1202": "Table 5; He et al. 2015",
    "stochastic-depth-110": "Table 5; Huang et al. 2016",
    "stochastic-depth-1202": "Table 5; Huang et al. 2016",
    "stochastic-depth-152": "for SVHN; Huang et al. 2016",
    "nin": "Table 5; Lin et al. 2014",
    "dsn": "Table 5; Lee et al. 2015",
    "fitnet": "Table 5; Romero et al. 2015",
    "highway": "Table 5; Srivastava et al. 2015",
    "elu": "Table 5; Clevert et al. 2016",
    "vgg": "the authors' repository",
    **{f"wrn-{row['depth']}-{number(row['k'])}-imagenet": "Table 7" for row in rows("table7")},
    "resnet-18": "He et al. 2015; wrn-18-1-imagenet",
    "resnet-34": "He et al. 2015; wrn-34-1-imagenet",
    **{row["network"].lower(): "Table 8" for row in rows("table8")},
}
"""The networks of the paper by name, and where they stand. Any other depth, width and block has a name too."""
