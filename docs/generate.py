"""Write docs/configuration.md from the classes of KBatchServer: ``python docs/generate.py``."""

from __future__ import annotations

import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

from traitlets import TraitType, Undefined
from traitlets.config import Configurable

from kbatch_server.app import KBatchServer
from kbatch_server.settings.plugins import PluginClass

WORDS = {
    "Bool": "True or False",
    "ByteSize": "bytes, or text like 2G",
    "ByteSpecification": "bytes, or text like 2G",
    "Callable": "function",
    "Dict": "dict",
    "Enum": "one of a few texts",
    "Float": "number",
    "Int": "integer",
    "Integer": "integer",
    "List": "list",
    "Unicode": "text",
}
"""What the kinds of traits are called for somebody who sets one."""

TARGET = Path(__file__).with_name("configuration.md")

HEAD = """\
# Settings

<!-- Made by docs/generate.py from the code: change the `help` of the trait there, then run it again. -->

Each setting is a *trait* of a class. It is set in `kbatch_server_config.py` (which the service reads from the
folder it is started in, or from where `--config` says):

```python
c = get_config()
c.JobConfig.max_cpu_limit = 8
```

or on the command line: `kbatch-server --JobConfig.max_cpu_limit=8`. The command line wins over the file, the
file over the environment, the environment over `.env`. A name that does not exist stops the start, so that a
misspelled limit is not a missing one. `kbatch-server --generate-config` writes a file with all of them,
commented out.

Sizes are bytes and durations are seconds, everywhere. How the service asks the hub is set on a class of
JupyterHub's: [HubOAuth](https://jupyterhub.readthedocs.io/en/stable/reference/api/services.auth.html). What
comes from the environment is listed in [Install](install.md#the-environment).
"""


def make_page() -> str:
    """Return the page."""
    classes = find_classes()
    links = "\n".join(f"- [`{cls.__name__}`](#{cls.__name__.lower()}): {summary(cls)}" for cls in classes)
    return "\n".join([HEAD, links, "", *(make_section(cls) for cls in classes)])


def find_classes() -> list[type[Configurable]]:
    """Return the classes of this package that can be configured, those that are plugged in last."""
    traits = KBatchServer.class_traits()
    plugins = [
        each for trait in traits.values() if isinstance(trait, PluginClass) for each in trait.load_installed()
    ]
    others = [cls for cls in KBatchServer().classes if cls not in plugins]
    own = [cls for cls in [*others, *plugins] if cls.__module__.startswith("kbatch_server.")]
    return list(dict.fromkeys(own))


def make_section(cls: type[Configurable]) -> str:
    """Return the part of the page about one class."""
    _, _, rest = inspect.cleandoc(cls.__doc__ or "").partition("\n")
    parts = [f"## {cls.__name__}\n", summary(cls) + "\n", to_markdown(rest) if rest.strip() else ""]
    parts += [make_entry(cls, trait) for _, trait in sorted(find_traits(cls).items())]
    return "\n".join(part for part in parts if part)


def find_traits(cls: type[Configurable]) -> dict[str, TraitType[Any, Any]]:
    """Return a class's own traits, and those of its bases in this package that have no section of theirs."""
    listed = set(find_classes()) - {cls}
    return {
        name: trait
        for name, trait in cls.class_traits(config=True).items()
        if trait.this_class not in listed and str(trait.this_class.__module__).startswith("kbatch_server.")
    }


def make_entry(cls: type[Configurable], trait: TraitType[Any, Any]) -> str:
    """Return what the page says of one trait."""
    name = f"{cls.__name__}.{trait.name}"
    # EntryPointType adds what is installed on this machine to its help
    said = getattr(trait, "_original_help", None) or trait.help
    return f"### `{name}`\n\n*{format_type(trait)}*, {format_default(cls, trait)}\n\n{to_markdown(said)}"


def format_type(trait: TraitType[Any, Any]) -> str:
    """Return the name of a trait's type, as the person who sets it thinks of it."""
    if isinstance(trait, PluginClass):
        return f"a subclass of {trait.klass.__name__}, or the name of an entry point"
    inner = getattr(trait, "trait_types", None) or [trait]
    return " or ".join(WORDS[type(each).__name__] for each in inner)


def format_default(cls: type[Configurable], trait: TraitType[Any, Any]) -> str:
    """Return a trait's default, unless it depends on the machine."""
    if any(trait.name in each.__dict__.get("_trait_default_generators", {}) for each in cls.mro()):
        return "default: see below"
    value = trait.default() if trait.default_value is Undefined else trait.default_value
    if isinstance(value, type):
        return f"default `{value.__module__}.{value.__qualname__}`"
    if isinstance(value, dict) and len(json.dumps(value)) > 60:
        return "default:\n\n```python\n" + "\n".join(_format_lines(value)) + "\n```"
    return f"default `{value!r}`"


def _format_lines(value: Any) -> list[str]:
    return ["{", *(f"    {key!r}: {each!r}," for key, each in value.items()), "}"]


def summary(cls: type[Configurable]) -> str:
    """Return the first line of a class's docstring."""
    return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]


def to_markdown(text: str) -> str:
    """Return a docstring as Markdown: the double backticks single, what follows ``::`` as code."""
    paragraphs, code = inspect.cleandoc(text).replace("``", "`"), False
    lines = []
    for line in paragraphs.splitlines():
        if code and line and not line.startswith("    "):
            lines[-1:] = ["```", ""]
            code = False
        if line.rstrip().endswith("::"):
            lines += [line.rstrip().removesuffix("::").rstrip().removesuffix(".") + ":", "", "```python"]
            code = True
        elif not (code and not line and lines[-1] == "```python"):
            lines.append(line.removeprefix("    ") if code else line)
    if code:
        lines.append("```")
    return textwrap.dedent("\n".join(lines)).strip() + "\n"


if __name__ == "__main__":
    TARGET.write_text(make_page())
