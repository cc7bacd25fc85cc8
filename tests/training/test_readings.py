"""What steps came to, read at once or late."""

import torch

from wrn.training.readings import Readings


def told(readings):
    return [(each.step, round(each.loss, 3), each.wrong, each.images) for each in readings]


def test_on_a_cpu_at_once():
    readings = Readings("cpu")
    assert told(readings.add(1, torch.tensor(0.5), torch.tensor(1.0), torch.tensor(3), 8)) == [(1, 0.5, 3, 8)]
    assert told(readings.rest()) == []


def test_late_but_in_order_and_none_is_lost():
    readings = Readings("cpu")
    readings.lag = 2
    given = [
        told(readings.add(step, torch.tensor(step / 10), torch.tensor(1.0), torch.tensor(step), 8))
        for step in range(1, 5)
    ]
    assert given == [[], [], [(1, 0.1, 1, 8)], [(2, 0.2, 2, 8)]]
    assert told(readings.rest()) == [(3, 0.3, 3, 8), (4, 0.4, 4, 8)]
