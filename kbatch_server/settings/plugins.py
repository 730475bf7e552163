"""A trait whose value is a class, given directly or by the name of an entry point."""

from __future__ import annotations

from typing import Any

from jupyterhub.traitlets import EntryPointType
from traitlets import TraitError


class PluginClass(EntryPointType):
    """JupyterHub's EntryPointType, with an error that lists the choices."""

    def load_installed(self) -> list[type]:
        """Return the classes of the entry points, sorted by name, except those that cannot be imported."""
        classes = []
        for _, entry in sorted(self.load_entry_points().items()):
            try:
                classes.append(entry.load())
            except ImportError:
                continue  # choosing this one reports the error
        return classes

    def validate(self, obj: Any, value: Any) -> Any:
        """Return the class, or raise TraitError."""
        try:
            return super().validate(obj, value)
        except (TraitError, ImportError) as error:
            names = ", ".join(sorted(self.load_entry_points()))
            why = f" ({error})" if isinstance(error, ImportError) else ""
            raise TraitError(
                f"{type(obj).__name__}.{self.name} is {value!r}{why}; it must be one of {names}, "
                f"or a subclass of {self.klass.__name__} like 'package.module.Class'"
            ) from error
