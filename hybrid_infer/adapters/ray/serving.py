"""The Serve application: replicas that hold one engine each, behind the routes of ``hybrid-infer serve``."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp

from hybrid_infer.adapters.ray.arguments import ServeArguments
from hybrid_infer.adapters.ray.requests import Proxied
from hybrid_infer.adapters.ray.shares import gpus_of, on_this_worker, registry_of
from hybrid_infer.errors import ConfigError, LocalEngineError
from hybrid_infer.server.app import new_app
from hybrid_infer.server.options import KEY_VARIABLE, ServerOptions, server_options

LOOPBACK = "127.0.0.1"
BUSY = 429  # what the router takes for a remote that is busy; 503 would be one that is down
BUSY_SECONDS = 1.0
# Behind these every request comes from a proxy's address, also one from another machine.
_HIDES_CLIENTS = (
    "RAY_SERVE_ENABLE_HA_PROXY",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED",
)


class Replica:
    """One engine, and the server's application before it.

    The server's key is read here and never travels: what Ray is given, it stores and may show.

    Args:
        model: what is loaded before the first request.
        client_arguments: of `AsyncHybridClient`.
        allowed_hosts: names by which clients reach the cluster.
        needs_key: whether there was a key where the application was built, so that one is missing if
            there is none here.

    Raises:
        ConfigError: an argument of the client is wrong, or there is no key and must be one.
    """

    def __init__(
        self,
        model: str,
        client_arguments: Mapping[str, Any],
        allowed_hosts: Sequence[str] = (),
        *,
        needs_key: bool = False,
    ) -> None:
        options = checked_options(allowed_hosts, os.environ)
        if needs_key and options.key is None:
            raise ConfigError(
                f"the application has a key, and this replica has none: set {KEY_VARIABLE} wherever "
                "Ray's processes start"
            )
        self._model, self._has_key = model, options.key is not None
        self._gate = new_app(options, on_this_worker(client_arguments))

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Load the model; Serve sends requests once this has returned.

        Raises:
            HybridInferError: the model cannot be loaded.
        """
        await self._gate.service.client.warm(self._model)
        return Proxied(self._gate, has_key=self._has_key)

    async def check_health(self) -> None:
        """What `/health` asks; Serve replaces a replica that fails three times in a row.

        Raises:
            LocalEngineError: the engine does not compute.
        """
        problem = await self._gate.service.health.problem()
        if problem is not None:
            raise LocalEngineError(problem)


def app(arguments: ServeArguments) -> Application:
    """The application of ``serve run hybrid_infer.adapters.ray:app name=value …``.

    Serve repeats nothing that a replica has begun: the router of its client does, or answers itself.

    Args:
        arguments: see `ServeArguments`.

    Raises:
        ConfigError: models.yaml, a variable or the server's key is wrong.
        InvalidRequestError: there is no such model.
    """
    client_arguments = arguments.client_arguments()
    registry = registry_of(client_arguments)
    spec = registry.resolve_named(arguments.model)
    options = checked_options(arguments.allowed_hosts, os.environ)
    gpus = arguments.num_gpus
    if gpus is None:
        gpus = gpus_of(spec, client_arguments["device"], arguments.dtype, registry.settings)
    deployed = serve.deployment(
        name="hybrid_infer",
        ray_actor_options={"num_cpus": arguments.num_cpus, "num_gpus": gpus},
        autoscaling_config={
            "min_replicas": arguments.min_replicas,
            "max_replicas": arguments.max_replicas,
            "target_ongoing_requests": arguments.target_ongoing_requests,
        },
        max_ongoing_requests=arguments.max_ongoing_requests,
        max_queued_requests=arguments.max_queued_requests,
        backpressure_config={"status_code": BUSY, "retry_after_s": BUSY_SECONDS},
        max_constructor_retry_count=1,
    )(serve.ingress()(Replica))
    return deployed.bind(
        arguments.model,
        client_arguments,
        arguments.allowed_hosts,
        needs_key=options.key is not None,
    )


def checked_options(allowed_hosts: Sequence[str], environ: Mapping[str, str]) -> ServerOptions:
    """Who may ask. With no key, only requests from the proxy's own machine are answered.

    Raises:
        ConfigError: a name or the key is malformed, or there is no key, and behind this ingress nobody
            can tell where requests are from.
    """
    options = server_options(LOOPBACK, 0, environ.get(KEY_VARIABLE), allowed_hosts)
    named = [name for name in _HIDES_CLIENTS if environ.get(name) == "1"]
    if named and options.key is None:
        raise ConfigError(f"{named[0]} hides where requests are from: set {KEY_VARIABLE}")
    return options
