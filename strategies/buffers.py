"""Buffers, such as a batch norm's running statistics: averaged by n_k, whatever the aggregator.

An aggregator with momentum or moments would move them like parameters: a running variance could
become negative.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from fedsplit.arrays import to_array, to_tensor
from strategies.answers import Answered
from strategies.replies import weights_of


def average_buffers(answered: Answered, names: Collection[str]) -> ArrayRecord:
    """Return the buffers' averages over the accepted participants, weighted by n_k.

    Sums are in double precision, in the order of partition ids; integers, such as the number of
    batches seen, are rounded to the nearest.
    """
    total = sum(answered.weights.values())
    sums: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for client, reply in answered.good.items():
        for name, array in weights_of(reply).items():
            if name in names:
                tensor = to_tensor(array)
                dtypes[name] = tensor.dtype
                share = tensor.to(torch.float64) * (answered.weights[client] / total)
                sums[name] = sums[name] + share if name in sums else share
    return ArrayRecord({name: to_array(_cast(t, dtypes[name])) for name, t in sums.items()})


def _cast(average: Tensor, dtype: torch.dtype) -> Tensor:
    return (average if dtype.is_floating_point else average.round()).to(dtype)
