"""The trait of a setting that is a size: bytes, or text with a unit like ``2G``, not below its minimum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyterhub.traitlets import ByteSpecification
from traitlets import Integer, TraitError

if TYPE_CHECKING:
    _Base = Integer[int, int]  # which the untyped base gives: an integer, whatever the admin wrote
else:
    _Base = ByteSpecification


class ByteSize(_Base):
    """A size in bytes, or text with a unit of 1024 (K, M, G or T).

    JupyterHub's ``ByteSpecification`` accepts None and ignores ``min``: the service would start with a limit
    that it cannot compare with, or with a negative one.
    """

    allow_none = False

    def __init__(self, *args: Any, min: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, min=min, **kwargs)

    def validate(self, obj: Any, value: Any) -> int:
        """Return the size in bytes; raises TraitError, which names the setting."""
        try:
            size = super().validate(obj, value)
        except (OverflowError, TypeError, ValueError, IndexError):
            self.error(obj, value)
        except TraitError:
            raise TraitError(
                f"{type(obj).__name__}.{self.name}: must be a number of bytes, or text like 512M or 2G, "
                f"not {value!r}"
            ) from None
        bounded: int = Integer.validate(self, obj, size)
        return bounded
