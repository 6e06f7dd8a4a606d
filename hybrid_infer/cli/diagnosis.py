"""What the doctor finds: keys, network, versions, machine, and what each alias can do here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_infer.cli.network import Reach, reach_all
from hybrid_infer.cli.versions import installed_versions
from hybrid_infer.registry.urls import TOKENS_PAGE

if TYPE_CHECKING:
    from hybrid_infer.datatypes.models import ModelSpec, RemoteSpec
    from hybrid_infer.local.backend import LocalBackend
    from hybrid_infer.registry import Registry

KEY_VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_API_KEY",
    "HUGGINGFACEHUB_API_TOKEN",
)
SHORTEST_MASKED = 20  # of a shorter key, four characters would be too much


def examine(
    *,
    network: bool,
    profile: str | None = None,
    models: Path | None = None,
    base_url: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> dict[str, Any]:
    """Look at everything; imports torch, loads no model.

    Args:
        network: whether remotes are connected to.
        profile: as the client's.
        models: as the client's.
        base_url: as the client's.
        device: as the client's.
        dtype: as the client's.

    Raises:
        ConfigError: an argument, models.yaml or an environment variable is wrong.
    """
    from hybrid_infer.client.options import checked_device, checked_dtype
    from hybrid_infer.local.backend import LocalBackend
    from hybrid_infer.registry import load_registry, read_environment
    from hybrid_infer.snapshots.resolve import hub_cache_dir, offline_variable

    registry = load_registry(models, profile=profile, base_url=base_url)
    environment = read_environment(os.environ)
    asked_device = environment.device if device == "auto" else None
    device, dtype = checked_device(asked_device or device), checked_dtype(dtype)
    keys = [_key(remote) for remote in registry.remotes]
    remotes = _remotes(registry.remotes, network=network)
    local = LocalBackend(settings=registry.settings, device=device, dtype=dtype)
    usable = {
        remote["name"]: remote["reachable"] is not False
        and not remote["is_offline"]
        and (key["source"] is not None or not key["needed"])
        for remote, key in zip(remotes, keys, strict=True)
    }
    rows = [_model(registry, spec, local, usable) for spec in registry.models]
    found: dict[str, Any] = {
        "versions": [asdict(version) for version in installed_versions()],
        "keys": keys,
        "offline_variable": offline_variable(),
        "remotes": remotes,
        "machine": _machine(device),
        "cache": str(hub_cache_dir()),
        "models": rows,
        "can_serve": any(row["can_serve"] for row in rows),
    }
    found["next_steps"] = _next_steps(found)
    return found


def _key(remote: RemoteSpec) -> dict[str, Any]:
    """A remote's key: where it comes from and a masked form, never the key."""
    from hybrid_infer.remote.keys import find_key, is_huggingface_host

    key = find_key(remote, None)
    needed = is_huggingface_host(remote.base_url)
    variables = ([remote.key_env] if remote.key_env else []) + list(KEY_VARIABLES)
    source = None
    if key is not None:
        values = {name: os.environ.get(name, "").strip() for name in variables}
        named = (name for name, value in values.items() if value == key.reveal())
        source = next(named, "the saved login")
    return {
        "remote": remote.name,
        "source": source,
        "masked": None if key is None else masked(key.reveal()),
        "needed": needed,
        "advice": f"set HF_TOKEN; get one at {TOKENS_PAGE}" if needed else "none is needed",
    }


def masked(key: str) -> str:
    """Enough of a key to recognise it: its prefix and, if it is long, its last four characters."""
    prefix = "hf_" if key.startswith("hf_") else ""
    return f"{prefix}…{key[-4:]}" if len(key) >= SHORTEST_MASKED else f"{prefix}…"


def _remotes(specs: Sequence[RemoteSpec], *, network: bool) -> list[dict[str, Any]]:
    """Every remote, connected to unless `network` or an offline switch says otherwise."""
    from hybrid_infer.remote.keys import is_huggingface_host
    from hybrid_infer.snapshots.resolve import offline_variable

    variable = offline_variable()
    offline = {s.name for s in specs if variable and is_huggingface_host(s.base_url)}
    asked = [spec for spec in specs if network and spec.name not in offline]
    reached = dict(
        zip(
            [spec.name for spec in asked],
            reach_all([_first_hop(spec.base_url) for spec in asked]),
            strict=True,
        )
    )
    return [
        {
            "name": spec.name,
            "url": spec.base_url,
            "dialect": spec.dialect,
            "is_offline": spec.name in offline,
            **_reach(reached.get(spec.name), variable if spec.name in offline else None),
        }
        for spec in specs
    ]


def _first_hop(base_url: str) -> str:
    """Where a connection to a remote goes first: the environment's proxy, or the remote."""
    from hybrid_infer.remote.proxies import environment_proxy

    proxy = environment_proxy(base_url)
    if proxy is None:
        return base_url
    return f"{proxy.url.scheme.decode()}://{proxy.url.host.decode()}:{proxy.url.port or ''}"


def _reach(reach: Reach | None, variable: str | None) -> dict[str, Any]:
    if reach is not None:
        return asdict(reach)
    why = f"{variable} is set" if variable else "--no-network"
    return {"reachable": None, "detail": f"not tried: {why}"}


def _machine(device: str) -> dict[str, Any]:
    """Device and memory; a device that is not here is reported, not raised."""
    import psutil

    from hybrid_infer.errors import ConfigError
    from hybrid_infer.local.hardware import available_memory, cpu_has_bfloat16, hardware

    memory = psutil.virtual_memory().total
    machine: dict[str, Any] = {
        "cpu_cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "cpu_native_bfloat16": cpu_has_bfloat16(),
        "memory_bytes": memory,
        "memory_available_bytes": available_memory(),
        "gpus": _gpus(),
    }
    try:
        chosen = hardware(device)
        machine |= {"device": chosen.device, "native_bfloat16": chosen.has_native_bfloat16}
    except ConfigError as error:
        machine |= {"device": None, "native_bfloat16": None, "problem": error.message}
    machine["summary"] = _machine_lines(machine)
    return machine


def _gpus() -> list[dict[str, Any]]:
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append({"name": properties.name, "memory_bytes": properties.total_memory})
    return found


def _machine_lines(machine: Mapping[str, Any]) -> list[str]:
    native = "computed natively" if machine["native_bfloat16"] else "not native"
    device = machine["device"] or machine["problem"]
    free, total = machine["memory_available_bytes"] / 1e9, machine["memory_bytes"] / 1e9
    return [
        f"device {device}, bfloat16 {native}",
        f"{machine['cpu_cores']} CPU cores, {free:.1f} of {total:.1f} GB memory free",
        *(f"{gpu['name']}, {gpu['memory_bytes'] / 1e9:.1f} GB" for gpu in machine["gpus"]),
    ]


def _model(
    registry: Registry, spec: ModelSpec, local: LocalBackend, usable: Mapping[str, bool]
) -> dict[str, Any]:
    from hybrid_infer.errors import ConfigError

    try:
        can = local.capabilities(spec)
        downloaded, fits, placement = can.is_cached, can.fits, can.placement
        options, detail = list(can.options), can.detail
    except ConfigError as error:  # the device that was asked for is not here
        downloaded, fits, placement, options, detail = False, None, None, [], error.message
    remotes = {
        remote.name: "usable" if usable[remote.name] else "not usable"
        for remote in registry.remotes
        if remote.model_id(spec) is not None
    }
    serves_locally = downloaded and fits is True
    return {
        "name": spec.name,
        "repo": spec.repo,
        "revision": spec.revision,
        "gated": spec.gated,
        "downloaded": downloaded,
        "fits": fits,
        "local": "ready" if serves_locally else "no",
        "dtype": placement and placement.dtype,
        "quantization": placement and placement.quantization,
        "device": placement and "+".join(placement.claim.devices),
        "bytes": placement and placement.claim.bytes,
        "cache_tokens": placement and placement.cache_tokens,
        "capabilities": options,
        "detail": detail,
        "remotes": remotes,
        "can_serve": serves_locally or "usable" in remotes.values(),
    }


def _next_steps(found: Mapping[str, Any]) -> list[str]:
    steps = [
        f"pip install --upgrade '{version['name']}{version['required']}'"
        for version in found["versions"]
        if not version["ok"] and version["name"] != "python"
    ]
    if any(key["needed"] and key["source"] is None for key in found["keys"]):
        steps.append(f"for the remote: set HF_TOKEN; get a token at {TOKENS_PAGE}")
    steps += [
        f"remote {remote['name']} is out of reach ({remote['detail']}): check network and proxy"
        for remote in found["remotes"]
        if remote["reachable"] is False
    ]
    missing = [row["name"] for row in found["models"] if not row["downloaded"]]
    if missing:
        steps.append(f"for local copies: hybrid-infer pull NAME (missing: {', '.join(missing)})")
    steps += [
        f"{row['name']}: {row['detail']}"
        for row in found["models"]
        if row["downloaded"] and row["detail"]
    ]
    return steps
