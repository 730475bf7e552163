"""What Kubernetes calls a quantity: a number with a unit, like ``500m``, ``2`` or ``1.5Gi``."""

from __future__ import annotations

import re
from decimal import Decimal

MIN_CPUS = 0.001
"""The least that Kubernetes knows of a CPU: less would be written as 0, which is no limit at all."""

MIN_MEMORY_BYTES = 6 * 2**20
"""The least memory that Docker starts a container with; less is a unit that was forgotten."""

_QUANTITY = re.compile(r"(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_UNITS = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGT", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGT", 1)},
}


def parse_quantity(value: str | float) -> Decimal:
    """Return the number that a Kubernetes quantity means, or raise ValueError."""
    match = _QUANTITY.fullmatch(str(value))
    if not match:
        raise ValueError("must be a quantity, like 500m, 2 or 4Gi")
    return Decimal(match[1]) * _UNITS[match[2] or ""]
