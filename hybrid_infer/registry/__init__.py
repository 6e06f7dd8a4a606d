"""Which models and remotes there are, from models.yaml; see `load_registry`.

Importing this loads neither PyYAML nor pydantic: a registry's first load does.
"""

from __future__ import annotations

from hybrid_infer.registry.environment import EnvironmentOptions, Profile, read_environment
from hybrid_infer.registry.loading import load_registry
from hybrid_infer.registry.resolve import Registry
from hybrid_infer.registry.tiny import TINY_REVISION
from hybrid_infer.registry.urls import is_loopback, validated_base_url
from hybrid_infer.settings import validated_settings

__all__ = [
    "TINY_REVISION",
    "EnvironmentOptions",
    "Profile",
    "Registry",
    "is_loopback",
    "load_registry",
    "read_environment",
    "validated_base_url",
    "validated_settings",
]
