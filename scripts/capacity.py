"""How many replicas a rate of requests needs, and what p99 they give: one formula, and its table.

    python scripts/capacity.py --rate 1000 --service-seconds 0.045 --p99 0.2
    python scripts/capacity.py                    # writes the table of docs/scaling.md

A cluster is taken for a queue before c equal servers, M/G/c: requests come at random, and each takes one
replica a time with a known mean and spread. Erlang's C formula (A. K. Erlang, 1917; L. Kleinrock, Queueing
Systems I, 3.8) gives the share of requests that wait; Allen and Cunneen's correction for service times that
are not exponential (A. O. Allen, Probability, Statistics and Queueing Theory, 1990, 5.2.4) how long.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
PERCENTILE = 0.99
MOST_BUSY = 0.8  # room for a replica that dies, and for a rate that is not what was planned
RATES = (10, 100, 1_000, 10_000, 100_000)
# What the table is made for, as measured: docs/benchmarks.md, Ray.
SERVICE_SECONDS = 0.055
INGRESS_SECONDS = 0.0005
TARGET_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Load:
    """What a cluster is asked to do.

    Attributes:
        rate: requests per second.
        service_seconds: mean time for which a request keeps one replica busy: its texts by the texts
            per second that the replica computes.
        variation: squared coefficient of variation of that time: 0 where all requests are alike,
            1 where they are exponential.
    """

    rate: float
    service_seconds: float
    variation: float = 0.0

    @property
    def busy(self) -> float:
        """Replicas that are busy on average: the offered load, in erlangs."""
        return self.rate * self.service_seconds


def waiting_share(busy: float, replicas: int) -> float:
    """Erlang's C: the share of requests that find all replicas busy.

    By the recursion of Erlang's B (R. B. Cooper, Introduction to Queueing Theory, 1981), which
    overflows for no number of servers.

    Args:
        busy: offered load in erlangs, less than `replicas`.
        replicas: servers.
    """
    blocked = 1.0
    for servers in range(1, replicas + 1):
        blocked = busy * blocked / (servers + busy * blocked)
    return blocked / (1 - busy / replicas * (1 - blocked))


def latency_seconds(load: Load, replicas: int, percentile: float = PERCENTILE) -> float:
    """The time that `percentile` of all requests stay below; infinite where they are too many.

    Waiting is taken for exponential, as it is in M/M/c; its mean is (1 + variation) / 2 of that one's.
    """
    if load.busy >= replicas:
        return math.inf
    share = waiting_share(load.busy, replicas)
    spare = (replicas - load.busy) / load.service_seconds
    wait = math.log(share / (1 - percentile)) * (1 + load.variation) / 2 / spare
    return load.service_seconds + max(0.0, wait)


def replicas_for(load: Load, target_seconds: float) -> int:
    """The fewest replicas that keep the 99th percentile within `target_seconds`, and are not too busy.

    Raises:
        ValueError: a request alone takes longer.
    """
    if target_seconds < load.service_seconds:
        raise ValueError("a request alone takes longer than the target")
    replicas = max(1, math.ceil(load.busy / MOST_BUSY))
    while latency_seconds(load, replicas) > target_seconds:
        replicas += 1
    return replicas


def replica_hours(load: Load, replicas: int) -> float:
    """Replica hours of a million requests; times what one costs, the price."""
    return replicas / load.rate * 1e6 / 3600


def table(service_seconds: float, ingress_seconds: float, target_seconds: float) -> str:
    """The plan for each of `RATES`, as Markdown."""
    lines = [
        "| requests/s | replicas | busy | p99, ms | cores of the ingress | replica hours for a million requests |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for rate in RATES:
        load = Load(rate, service_seconds)
        replicas = replicas_for(load, target_seconds)
        lines.append(
            f"| {rate:,} | {replicas:,} | {load.busy / replicas:.0%} | "
            f"{latency_seconds(load, replicas) * 1e3:.0f} | {rate * ingress_seconds:.3g} | "
            f"{replica_hours(load, replicas):.1f} |"
        )
    return "\n".join(lines)


def page() -> str:
    """docs/scaling.md with the table in it."""
    start, end = "<!-- capacity: start -->", "<!-- capacity: end -->"
    before, rest = PATH.read_text(encoding="utf-8").split(start)
    made = table(SERVICE_SECONDS, INGRESS_SECONDS, TARGET_SECONDS)
    return f"{before}{start}\n{made}\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Print a plan, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, help="requests per second")
    parser.add_argument("--service-seconds", type=float, default=SERVICE_SECONDS)
    parser.add_argument("--variation", type=float, default=0.0)
    parser.add_argument("--p99", type=float, default=TARGET_SECONDS, help="seconds")
    options = parser.parse_args()
    if options.rate is None:
        PATH.write_text(page(), encoding="utf-8")
        return
    load = Load(options.rate, options.service_seconds, options.variation)
    replicas = replicas_for(load, options.p99)
    latency = latency_seconds(load, replicas)
    print(
        f"{replicas:,} replicas, {load.busy / replicas:.0%} busy, p99 {latency * 1e3:.0f} ms, "
        f"{replica_hours(load, replicas):.1f} replica hours for a million requests"
    )


if __name__ == "__main__":
    main()
