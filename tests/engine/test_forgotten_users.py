"""What a launcher keeps for a user, such as a namespace, goes when the service forgets the user."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from kbatch_server.engine.retention import Janitor
from kbatch_server.errors import Unavailable
from kbatch_server.launchers.base import LauncherUnavailable
from kbatch_server.models.request import JobRequest
from kbatch_server.models.user import User
from tests.support.launcher_doubles import ScriptedLauncher
from tests.support.waiting import until

ALICE = User(name="alice")


class KeepingLauncher(ScriptedLauncher):
    """Keeps something for each user, until it is told to forget the user and then to remove it."""

    keeps_users = True

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.forgotten: list[str] = []
        self.removed = asyncio.Event()

    async def forget_user(self, user: str) -> None:
        if self.fails:
            raise self.fails
        self.forgotten.append(user)

    async def remove_forgotten(self) -> None:
        self.removed.set()


@pytest.fixture
def launcher(world):
    world.launcher = KeepingLauncher()
    world.renew()
    return world.launcher


async def test_the_launcher_is_told_of_a_user_who_has_gone_but_not_of_one_who_is_there_again(world, launcher):
    await world.jobs.submit(ALICE, JobRequest(name="job", image="busybox", command=["true"]))
    done = await world.jobs.forget_user("alice", before=datetime(2020, 1, 1, tzinfo=UTC))
    assert (done.jobs, launcher.forgotten) == (0, [])
    done = await world.jobs.forget_user("alice")
    assert (done.jobs, launcher.forgotten) == (1, ["alice"])


async def test_while_the_launcher_cannot_be_told_the_call_fails_and_may_be_repeated(world, launcher):
    launcher.fails = LauncherUnavailable("the cluster is away")
    with pytest.raises(Unavailable, match=r"except for the namespace: the cluster is away"):
        await world.jobs.forget_user("alice")
    launcher.fails = None
    await world.jobs.forget_user("alice")
    assert launcher.forgotten == ["alice"]


async def test_the_janitor_removes_it(world, launcher):
    [janitor] = [each for each in world.engine.leader.parts if isinstance(each, Janitor)]
    janitor.interval_seconds = 1
    await janitor.start()
    try:
        await until(launcher.removed.is_set)
    finally:
        await janitor.stop()
