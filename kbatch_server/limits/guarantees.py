"""Keep what is set aside for a job within what it may use: Kubernetes refuses a pod otherwise. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from ..quantities import parse_quantity

Amount = TypeVar("Amount", int, float)


def limit_guarantee(guarantee: Amount | None, limit: Amount | None) -> Amount | None:
    """Return how much is set aside: the guarantee, or the limit where that is less; None is none."""
    if guarantee is None or limit is None:
        return guarantee
    return min(guarantee, limit)


def limit_guarantees(guarantees: Mapping[str, str], limits: Mapping[str, str]) -> dict[str, str]:
    """Return the same for resources by name, in quantities of Kubernetes.

    Of what cannot be overcommitted a pod must ask for just its limit. What is no quantity stays as it is.
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
