"""Explains to the user why a program could not be started with EACCES (permission denied).

It is a part of the supervisor, which uses the standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Callable

NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""A shell's exit codes for a program that it may not run, and for one that it does not find."""


def explain_denial(program: str, code: str, path: str, account: str) -> tuple[int, str]:
    """Return the exit code and the message for a program that failed with EACCES.

    ``code`` is the working folder, ``path`` the job's PATH. It looks with the rights of the calling process,
    which must be those of the job's account (see ``run_as``): users must not learn which files exist where
    the account cannot look.
    """
    folders = [""] if "/" in program else path.split(":")
    closed = []
    for folder in folders:
        place = os.path.join(code, folder, program)
        try:
            os.lstat(place)
        except PermissionError:
            closed.append(os.path.dirname(place))
            continue
        except OSError:
            continue
        if not os.path.isdir(place):
            return NOT_EXECUTABLE, _explain_found(program, os.path.join(folder, program), place, account)
    message = f"The program {program!r} was not found."
    if closed:
        where = ", ".join(dict.fromkeys(closed))
        message += f" {account[0].upper()}{account[1:]} cannot read {where}."
    return NOT_FOUND, message


def _explain_found(program: str, name: str, place: str, account: str) -> str:
    at = "" if name == program else f" at {name}"
    found = f"The program {program!r} was found{at}, but {account} cannot run"
    if os.access(place, os.X_OK):
        return f"{found} the interpreter in its first line."
    if os.path.exists(place):
        return f"{found} it: it is not executable."
    return f"{found} it: it links into a folder that the account cannot enter."


def run_as(uid: int, gid: int, groups: list[int], function: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    """Return the result of a function in a process of another account; the caller must be root."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            number, text = function()
            os.write(write_end, f"{number} {text}".encode()[:4096])  # no more than a pipe takes at once
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        number_text, _, text = answer.read().decode(errors="replace").partition(" ")
    os.waitpid(child, 0)
    return int(number_text), text
