"""Is our recipe `fast`, in a quarter of the epochs, as good as the paper's? Neither table is in the paper.

`wrn reproduce fast --data folder:PATH`: WRN-16-4, 50 epochs against 200; on a GPU.
`wrn reproduce fast-small --data folder:PATH`: WRN-16-2, 5 against 20; hours on two cores.
"""

from wrn.experiments.parts import CIFAR10, Experiment, Row


def _quarter(name: str, model: str, epochs: int) -> Experiment:
    return Experiment(
        id=name,
        title=f"The recipe fast, {epochs // 4} epochs, against the paper's of {epochs}",
        columns=(CIFAR10,),
        rows=(
            Row(model=model, recipe="paper", fields={"epochs": epochs}),
            Row(model=model, name=f"{model} fast", recipe="fast", fields={"epochs": epochs // 4}),
        ),
        base=model,
        seeds=3,
    )


EXPERIMENT = _quarter("fast", "wrn-16-4", 200)
SMALL = _quarter("fast-small", "wrn-16-2", 20)
