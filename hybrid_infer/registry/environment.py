"""The environment variables that stand in for constructor arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hybrid_infer.errors import ConfigError
from hybrid_infer.registry.names import did_you_mean, shown
from hybrid_infer.settings import POLICIES, Policy

Profile = Literal["tiny"]

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class EnvironmentOptions:
    """What the environment asks for; a constructor argument wins over each.

    Attributes:
        models: ``HYBRID_INFER_MODELS``, the path of a models.yaml.
        profile: ``HYBRID_INFER_PROFILE``.
        policy: ``HYBRID_INFER_POLICY``.
        device: ``HYBRID_INFER_DEVICE``: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """

    models: str | None = None
    profile: Profile | None = None
    policy: Policy | None = None
    device: str | None = None


def read_environment(environ: Mapping[str, str]) -> EnvironmentOptions:
    """The options that `environ` sets; an empty value counts as unset.

    Raises:
        ConfigError: a value is malformed; the message names the variable.
    """
    profile = environ.get("HYBRID_INFER_PROFILE") or None
    policy = environ.get("HYBRID_INFER_POLICY") or None
    device = environ.get("HYBRID_INFER_DEVICE") or None
    if policy is not None and policy not in POLICIES:
        raise ConfigError(
            f"HYBRID_INFER_POLICY is {shown(policy)}; it must be one of {', '.join(POLICIES)}"
            f"{did_you_mean(policy, POLICIES)}"
        )
    if device is not None and not _DEVICE.fullmatch(device):
        raise ConfigError(
            f"HYBRID_INFER_DEVICE is {shown(device)}; it must be auto, cpu, cuda, cuda:N or mps"
        )
    return EnvironmentOptions(
        models=environ.get("HYBRID_INFER_MODELS") or None,
        profile=None if profile is None else validated_profile(profile, "HYBRID_INFER_PROFILE"),
        policy=policy,
        device=device,
    )


def validated_profile(profile: object, origin: str) -> Profile:
    """The profile's name; `origin` is the variable or argument that an error names."""
    if profile == "tiny":
        return "tiny"
    value = shown(profile) if isinstance(profile, str) else type(profile).__name__
    raise ConfigError(f"{origin} is {value}; the only profile is 'tiny', or leave it unset")
