"""Reads Kubernetes's quantities (``500m``, ``1.5Gi``), and limits guarantees. Pure.

The official client's ``parse_quantity`` is for trusted values: it accepts ``1e999999999``, which takes all
memory as an integer, and ``NaN``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TypeVar

MIN_CPUS = 0.001
"""Kubernetes's smallest amount of CPU: less would become 0, which means no limit at all."""

MIN_MEMORY_BYTES = 6 * 2**20
"""The minimum memory with which Docker starts a container; less means that somebody forgot the unit."""

_QUANTITY = re.compile(r"(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_UNITS = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}


def parse_quantity(value: str | float) -> Decimal:
    """Return the number in a quantity that a user or an admin may write, or raise ValueError."""
    match = _QUANTITY.fullmatch(str(value))
    if not match:
        raise ValueError("must be a quantity, like 500m, 2 or 4Gi")
    return Decimal(match[1]) * _UNITS[match[2] or ""]


def parse_any_quantity(text: str) -> Decimal:
    """Return the number in a quantity that Kubernetes reports, in any of its forms, or raise ValueError."""
    match = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)", text)
    if not match or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is not a quantity")
    return Decimal(match[1]) * _UNITS[match[2]]


Amount = TypeVar("Amount", int, float)


def limit_guarantee(guarantee: Amount | None, limit: Amount | None) -> Amount | None:
    """Return the guarantee, or the limit if that is less; None means none."""
    if guarantee is None or limit is None:
        return guarantee
    return min(guarantee, limit)


def limit_guarantees(guarantees: Mapping[str, str], limits: Mapping[str, str]) -> dict[str, str]:
    """Return the same for resources by name, as Kubernetes's quantities.

    A pod must request exactly its limit of resources that cannot be overcommitted. Invalid quantities stay as
    they are.
    https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#extended-resources
    """
    return {
        name: limits[name]
        if name in limits and (is_exclusive(name) or _is_less(limits[name], amount))
        else amount
        for name, amount in guarantees.items()
    }


def is_exclusive(name: str) -> bool:
    """Whether a resource cannot be overcommitted: an extended one (``vendor/thing``), or huge pages."""
    return "/" in name or name.startswith("hugepages-")


def _is_less(one: str, other: str) -> bool:
    try:
        return parse_quantity(one) < parse_quantity(other)
    except ValueError:
        return False
