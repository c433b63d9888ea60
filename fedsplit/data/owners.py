"""Divide images by their owners, such as writers or hospitals: a natural partition."""

from __future__ import annotations

import numpy as np

from fedsplit.config import DataConfig
from fedsplit.data.catalog import ImageDataset
from fedsplit.data.rows import own_columns
from fedsplit.data.sampling import Rows
from fedsplit.errors import ConfigError, DataError


def owners_of(dataset: ImageDataset, data: DataConfig) -> Rows:
    """Return the number of each training image's owner, from 0 in the order of their names.

    Raises
    ------
    ConfigError
        If ``data.partition-column`` is empty.
    DataError
        If there is no such column, or a row has no owner.
    """
    column = data.partition_column
    columns = ", ".join(own_columns(dataset.train))
    if not column:
        raise ConfigError(
            "data.partitioner = 'natural-id' needs data.partition-column, which says to whom an "
            f"image belongs. The columns of '{dataset.name}' are: {columns}."
        )
    if column not in dataset.train.column_names:
        raise DataError(
            f"The data set '{dataset.name}' has no column '{column}' (data.partition-column). Its "
            f"columns are: {columns}."
        )
    values = dataset.train.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    if (without := values.count(None)) or any(isinstance(each, list | dict) for each in values):
        what = f"is empty in {without} rows" if without else "holds lists"
        raise DataError(
            f"The column '{column}' (data.partition-column) of '{dataset.name}' {what}. Each "
            "image needs one owner: a text or a number."
        )
    _, numbers = np.unique([str(value) for value in values], return_inverse=True)
    return numbers.astype(np.int64)


def deal_out(owners: Rows, data: DataConfig, num_clients: int, seed: int, name: str) -> list[Rows]:
    """Return the rows of each client: of all owners that it gets, ascending.

    Owners are dealt out one by one in a seeded order, so clients have equally many, or one more.

    Raises
    ------
    ConfigError
        If there are fewer owners than clients.
    """
    count = int(owners.max()) + 1
    if count < num_clients:
        raise ConfigError(
            f"The column '{data.partition_column}' (data.partition-column) of '{name}' has {count} "
            f"values: too few for {num_clients} clients. Set num-clients to at most {count}."
        )
    order = np.random.default_rng(seed).permutation(count)
    client_of = np.empty(count, dtype=np.int64)
    client_of[order] = np.arange(count) % num_clients
    clients = client_of[owners]
    return [np.flatnonzero(clients == client) for client in range(num_clients)]
