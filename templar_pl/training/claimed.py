"""The fingerprint that a model has by the word of a manifest, computed only where it must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from templar_pl.protocol import fingerprint


class ClaimedFingerprint:
    """What is known of the parameters of a model after so many windows.

    A fingerprint costs several times an update, so that of a model that follows manifests is not computed each window.
    """

    def __init__(self, parameters: Callable[[], Mapping[str, Tensor]], applied: Callable[[], int]) -> None:
        """Know nothing.

        Args:
            parameters: of the model.
            applied: windows of the run applied to them.
        """
        self._parameters, self._applied = parameters, applied
        self._at, self._fingerprint, self._is_computed = -1, b"", False

    def claim(self, fingerprint: bytes, *, is_computed: bool) -> None:
        """Note what the parameters are now, by somebody's word or computed from them (32 bytes)."""
        self._at, self._fingerprint, self._is_computed = self._applied(), fingerprint, is_computed

    def forget(self) -> None:
        """Note that nothing is known of what the parameters are now."""
        self._at = -1

    def now(self) -> bytes:
        """Return the fingerprint: what was claimed, if that was at this place, else computed."""
        if self._at != self._applied():
            self.claim(fingerprint(self._parameters()), is_computed=True)
        return self._fingerprint

    def is_true(self) -> bool:
        """Whether the parameters are what was claimed of them; computes it if need be, and goes by that afterwards."""
        if self._at != self._applied() or self._is_computed:
            return True
        claimed = self._fingerprint
        self.claim(fingerprint(self._parameters()), is_computed=True)
        return claimed == self._fingerprint
