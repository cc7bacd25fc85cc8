"""One's own training loop from the parts of `wrn`: the same bits as `wrn train --precision fp32`.

    uv run python examples/own_loop.py --epochs 2

Copy it, then change what your method changes: the loss, the step, what is trained. It ends by comparing its weights
with those of that run.
"""

import argparse
import tempfile

import torch

import wrn


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="wrn-10-1")
    arguments.add_argument("--data", default="digits")
    arguments.add_argument("--recipe", default="paper")
    arguments.add_argument("--dropout", type=float, default=0.0)
    arguments.add_argument("--epochs", type=int, default=2)
    arguments.add_argument("--seed", type=int, default=0)
    chosen = arguments.parse_args()

    fields = {"recipe": chosen.recipe, "epochs": chosen.epochs, "dropout": chosen.dropout}
    recipe = wrn.recipe(chosen.model, data=chosen.data, **fields)
    data = wrn.dataset(recipe, seed=chosen.seed)
    steps = data.train.steps(recipe)
    model = wrn.network_of(recipe, len(data.classes), chosen.seed, recipe.epochs * steps)
    model.to(memory_format=torch.channels_last)  # the layout `wrn train` computes in; NCHW would differ by rounding
    objective = wrn.objective(model, recipe, samples=len(data.train), seed=chosen.seed)  # the recipe's loss
    optimizer = wrn.optimizer(model, recipe)

    for epoch in range(1, recipe.epochs + 1):
        objective.start_epoch(epoch)
        wrn.start_epoch(optimizer, recipe, epoch)  # the learning rate, and what happens where it drops
        model.train()
        # Order, augmentation and (by the seed set before each batch) dropout depend on seed, epoch and step alone
        batches = data.train.batches(recipe, seed=chosen.seed, epoch=epoch, order=objective.order)
        for step, (images, labels) in enumerate(batches):
            wrn.set_rates(optimizer, recipe, epoch, step / steps)  # of matter where the rate changes step by step
            loss, _ = objective(images, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scores = wrn.evaluate(model, data.test)
        print(f"epoch {epoch}  lr {recipe.lr_at(epoch):g}  test error {scores.error:.2f}%")

    with tempfile.TemporaryDirectory() as folder:
        run = wrn.train(recipe, out=folder, seed=chosen.seed, device="cpu", precision="fp32", quiet=True)
        theirs = wrn.load(run).network.state_dict()
    same = all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    print("weights equal those of wrn train, bit for bit" if same else "weights DIFFER from those of wrn train")
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
