"""The proxy that the environment names for a host."""

from __future__ import annotations

import ipaddress
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore2
import httpx2

from hybrid_infer.errors import APIConnectionError
from hybrid_infer.registry.urls import is_loopback


def environment_proxy(base_url: str) -> httpcore2.Proxy | None:
    """The proxy to reach `base_url` through, from ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY``.

    ``NO_PROXY`` is honoured, networks such as ``10.0.0.0/8`` included. Loopback never goes
    through a proxy: there it would mean another machine.

    Raises:
        APIConnectionError: the variable does not hold a usable proxy URL, which is not repeated, because
            it may hold a password; or that of a SOCKS proxy, and the package that speaks to one is not
            installed. Other targets may serve meanwhile.
    """
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if is_loopback(base_url):
        return None
    proxies = getproxies()
    url = proxies.get(parts.scheme) or proxies.get("all")
    if not url or proxy_bypass(host) or _in_network(host, proxies.get("no", "")):
        return None
    proxy = _parsed(url if "://" in url else f"http://{url}")
    if proxy is None:
        raise APIConnectionError(
            f"the proxy that the environment names for {parts.scheme} URLs is not usable"
        )
    if proxy.url.scheme.startswith(b"socks") and find_spec("socksio") is None:
        raise APIConnectionError(
            f"the environment names a SOCKS proxy for {parts.scheme} URLs, which needs the package "
            "socksio: pip install 'httpx2[socks]'"
        )
    return proxy


def _parsed(url: str) -> httpcore2.Proxy | None:
    try:
        proxy = httpx2.Proxy(url)
    except (httpx2.InvalidURL, ValueError):
        return None
    return httpcore2.Proxy(
        url=httpcore2.URL(
            scheme=proxy.url.raw_scheme,
            host=proxy.url.raw_host,
            port=proxy.url.port,
            target=proxy.url.raw_path,
        ),
        auth=proxy.raw_auth,
        headers=proxy.headers.raw,
    )


def _in_network(host: str, no_proxy: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in no_proxy.split(","):
        try:
            if "/" in entry and address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue  # like curl and httpx2, entries that cannot be parsed are ignored
    return False
