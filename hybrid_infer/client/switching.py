"""Which target serves the next window of a stream of texts. Pure.

Two windows may come from two backends only if ``verify`` has compared them. It is asked once,
between the first window and the second: when the first backend has gone, it is too late to ask.
Without that proof all windows stay with whoever served the first.
"""

from __future__ import annotations

from collections.abc import Collection

from hybrid_infer.datatypes.embeddings import Embeddings
from hybrid_infer.datatypes.parity import ParityReport
from hybrid_infer.errors import EmbeddingSpaceMismatchError
from hybrid_infer.routing.policy import LOCAL
from hybrid_infer.settings import Policy


class Switching:
    """Which target serves the next window, and whether a window may stay as it was served.

    Args:
        policy: the client's.
        remotes: the names of the client's remotes.
        route: the caller's ``route=``.
        served_by: who has served earlier windows of the same texts: a remote's name or ``local``.
    """

    def __init__(
        self,
        policy: Policy,
        remotes: Collection[str],
        route: str | None,
        served_by: str | None = None,
    ) -> None:
        self._route = route
        num_remotes = 0 if policy == "local-only" else len(remotes)
        has_local = policy != "remote-only" and route is None
        self._has_one_target = route not in (None, "remote") or num_remotes + has_local <= 1
        self._compared: frozenset[str] | None = None
        self._space: object = None
        self.served_by = served_by

    @property
    def is_verification_due(self) -> bool:
        """Whether a window has been served, and nobody asked yet who else may serve the next."""
        return not self._has_one_target and self.served_by is not None and self._compared is None

    def learn(self, report: ParityReport | None) -> None:
        """Take what ``verify`` found; None: it could not be asked.

        Unless it found targets that agree, all windows stay with whoever served the first.
        """
        if report is None or not report.ok:
            self._compared = frozenset()
            return
        targets = {probe.target for probe in report.probes}
        if report.compared == "remote:local":
            targets.add(LOCAL.name)
        self._compared = frozenset(targets)

    @property
    def route(self) -> str | None:
        """``route=`` of the next window."""
        if self._has_one_target or self.served_by is None:
            return self._route
        is_free = self.served_by in (self._compared or ()) and len(self._compared or ()) > 1
        return self._route if is_free else self.served_by

    def accept(self, result: Embeddings) -> bool:
        """Whether `result` may stand beside the windows before it; if not, ask `route` again."""
        server = result.route.provider or LOCAL.name
        is_first = self.served_by is None
        may_serve = is_first or server == self.served_by or self._may_both(server)
        if may_serve and self._space in (None, result.space):
            self.served_by, self._space = server, result.space
            return True
        self._compared = frozenset()
        return False

    def check(self, result: Embeddings) -> None:
        """Accept `result`, the second answer for its window.

        Raises:
            EmbeddingSpaceMismatchError: it may not stand beside the windows before it.
        """
        if not self.accept(result):
            raise EmbeddingSpaceMismatchError(
                f"earlier windows were served by {self.served_by}; vectors of "
                f"{result.route.provider or LOCAL.name} may not stand beside them"
            )

    def _may_both(self, server: str) -> bool:
        return self._has_one_target or {server, self.served_by} <= (self._compared or frozenset())
