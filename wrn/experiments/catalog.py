"""The experiments by id. To add one: a file here, a line below."""

from wrn.experiments import (
    fast,
    figure1,
    figure2,
    figure3,
    figure4,
    quirks,
    small,
    table2,
    table3,
    table4,
    table5,
    table6,
    table7,
    table8,
    table9,
)
from wrn.experiments.parts import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    each.id: each
    for each in (
        table2.EXPERIMENT,
        table3.EXPERIMENT,
        table4.EXPERIMENT,
        table5.EXPERIMENT,
        table6.EXPERIMENT,
        table7.EXPERIMENT,
        table8.EXPERIMENT,
        table9.EXPERIMENT,
        figure1.EXPERIMENT,
        figure2.EXPERIMENT,
        figure3.EXPERIMENT,
        figure4.EXPERIMENT,
        quirks.EXPERIMENT,
        small.TABLE4,
        small.TABLE6,
        small.FIGURE2,
        small.PRECISION,
        fast.EXPERIMENT,
        fast.SMALL,
    )
}
