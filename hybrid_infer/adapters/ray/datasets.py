"""Ray datasets: one engine in each actor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray.data import ActorPoolStrategy, Dataset

from hybrid_infer.adapters.ray.arguments import ServeArguments
from hybrid_infer.adapters.ray.shares import gpus_of, on_this_worker, registry_of
from hybrid_infer.bulk.arrow import with_vectors
from hybrid_infer.bulk.rows import EMBEDDING
from hybrid_infer.client.sync import HybridClient
from hybrid_infer.errors import BulkDataError, InvalidRequestError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1024
_INDEX = re.compile(r"texts\[(\d+)\]")
_SHOWN = 200


class Embedder:
    """An actor's engine.

    Args:
        column: holds the texts.
        call: arguments of `HybridClient.embed`.
        client_arguments: of `HybridClient`.

    Raises:
        ConfigError: an argument of the client is wrong.
    """

    def __init__(
        self, column: str, call: Mapping[str, Any], client_arguments: Mapping[str, Any]
    ) -> None:
        self._column, self._call = column, call
        self._client = HybridClient(**on_this_worker(client_arguments))

    def __call__(self, table: pa.Table) -> pa.Table:
        """The batch and its vectors.

        Raises:
            BulkDataError: it has no such column, or a column of vectors; or a row's text is none.
            HybridInferError: it cannot be computed.
        """
        names = table.column_names
        if self._column not in names:
            raise BulkDataError(f"there is no column {self._column!r}, but {', '.join(names)}")
        if EMBEDDING in names:
            raise BulkDataError(f"there is a column {EMBEDDING!r} already")
        texts = table.column(self._column).to_pylist()
        try:
            result = self._client.embed(texts, **self._call)
        except InvalidRequestError as error:
            raise self._bad_row(table, error) from error
        return with_vectors(table, result.vectors)

    def _bad_row(self, table: pa.Table, error: InvalidRequestError) -> Exception:
        """The error of one row, by its other columns: a batch has no place in the whole."""
        match = _INDEX.match(error.argument or "")
        if match is None:
            return error
        (row,) = table.drop_columns([self._column]).slice(int(match[1]), 1).to_pylist() or ({},)
        text = _INDEX.sub("its text", error.message, count=1)
        return BulkDataError(f"a row is bad: {text}; its other columns: {repr(row)[:_SHOWN]}")


def embed_dataset(
    dataset: Dataset,
    model: str = "default",
    *,
    column: str = "text",
    normalize: bool = True,
    truncate: bool = True,
    actors: int | tuple[int, int] = 1,
    num_cpus: float = 2,
    num_gpus: float | None = None,
    batch_rows: int = BATCH_ROWS,
    profile: str | None = None,
    policy: str | None = None,
    models: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Dataset:
    """A dataset with a column ``embedding``, computed by actors that hold an engine each.

    It is computed when it is read, as Ray Data has it; Ray gives the batches of an actor that dies
    to another one. What goes wrong with a row or an engine is then Ray's error, and ours its cause.

    Args:
        dataset: has the texts, and no column ``embedding``.
        model: an embeddings alias or a Hub id.
        column: holds the texts.
        normalize: whether vectors have unit length.
        truncate: whether over-long texts are cut at the model's limit.
        actors: how many, or how few and how many at most.
        num_cpus: cores of an actor, of which its engine makes as many threads; 1 or less is one.
        num_gpus: of an actor; None: as `ServeArguments` has it.
        batch_rows: rows of one ``embed`` call.
        profile: of the actors' clients, as are the next four; see `ServeArguments`.
        policy: ``local-only`` by default.
        models: path of a models.yaml, on every machine that runs an actor.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: ``auto`` or a dtype's name.

    Returns:
        The columns of `dataset`, and ``embedding``, a fixed-size list of float32 of the model's
        length; in the order that Ray Data is told to keep.

    Raises:
        ConfigError: an argument, models.yaml or a variable is wrong.
        InvalidRequestError: there is no such model.
    """
    arguments = ServeArguments.checked(
        num_cpus=num_cpus, num_gpus=num_gpus, profile=profile, policy=policy, models=models,
        device=device, dtype=dtype,
    )  # fmt: skip
    of_client = arguments.client_arguments()
    registry = registry_of(of_client)
    spec = registry.resolve("embeddings", model)
    gpus = arguments.num_gpus
    if gpus is None:
        gpus = gpus_of(spec, of_client["device"], arguments.dtype, registry.settings)
    least, most = (actors, actors) if isinstance(actors, int) else actors
    call = {"model": model, "normalize": normalize, "truncate": truncate}
    return dataset.map_batches(
        Embedder,
        fn_constructor_args=(column, call, of_client),
        batch_format="pyarrow",
        batch_size=batch_rows,
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=arguments.num_cpus,
        num_gpus=gpus or None,
    )
