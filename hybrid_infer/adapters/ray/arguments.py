"""What ``serve run hybrid_infer.adapters.ray:app name=value …`` may be told."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hybrid_infer.errors import ConfigError
from hybrid_infer.registry import read_environment
from hybrid_infer.settings import Policy


def _listed(value: Any) -> Any:
    """A command line has no lists: names between commas."""
    return value.split(",") if isinstance(value, str) else value


class ServeArguments(BaseModel):
    """The application's arguments, from a command line or from ``args:`` of a Serve file.

    The server's key is none of them, because Ray shows arguments: it is ``HYBRID_INFER_SERVER_KEY`` in
    the environment, see `Replica`.

    Attributes:
        model: what each replica loads before it takes requests, ``embeddings/small`` or a Hub id.
        profile: as `HybridClient` has it, as are the next four. What is not given comes from the
            ``HYBRID_INFER_`` variables where the application is built.
        policy: ``local-only`` by default: a cluster is what others fall back to.
        models: path of a models.yaml, on every machine that runs a replica.
        device: ``auto``, ``cpu`` or ``cuda``; which GPU is Ray's choice.
        dtype: ``auto`` or a dtype's name.
        allowed_hosts: names by which clients reach the cluster, beyond its IP addresses.
        min_replicas: replicas that are always there.
        max_replicas: replicas at most; the queue decides how many there are.
        target_ongoing_requests: requests in progress and waiting, for each replica, above which
            another one is started.
        max_ongoing_requests: requests that a replica works on at once; others wait before it.
        max_queued_requests: that may wait there; one more is answered 429.
        num_cpus: cores of a replica, of which its engine makes as many threads; 1 or less is one.
        num_gpus: of a replica. None: by the model's placement on the machine where the application
            is built, see `shares.gpus_of`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "embeddings/default"
    profile: Literal["tiny"] | None = None
    policy: Policy | None = None
    models: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: float = Field(4, gt=0)
    max_ongoing_requests: int = Field(16, ge=1)
    max_queued_requests: int = Field(64, ge=1)
    num_cpus: float = Field(2, gt=0)
    num_gpus: float | None = Field(None, ge=0)

    @classmethod
    def checked(cls, **given: Any) -> Self:
        """The arguments that are given in Python.

        Raises:
            ConfigError: one is unknown, or wrong.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{name}: {first['msg']}") from None

    def client_arguments(self) -> dict[str, Any]:
        """What a replica's client is made of.

        Raises:
            ConfigError: a variable of the environment is malformed.
        """
        environment = read_environment(os.environ)
        device: str = self.device
        if device == "auto" and environment.device is not None:
            device = environment.device.partition(":")[0]
        given = {
            "profile": self.profile or environment.profile,
            "policy": self.policy or environment.policy or "local-only",
            "models": self.models or environment.models,
            "device": device,
            "dtype": self.dtype,
        }
        return {name: value for name, value in given.items() if value is not None}
