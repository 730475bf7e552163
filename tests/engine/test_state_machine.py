"""Store and reconciler against a model: whatever order things come in, each job runs once and ends once.

Hypothesis makes up the orders, the same in every run: https://hypothesis.readthedocs.io/en/latest/stateful.html
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete

from kbatch_server.engine import reconciler as reconciler_module
from kbatch_server.engine.collector import Collector
from kbatch_server.errors import Conflict, NotFound
from kbatch_server.launchers.base import JobLauncher, Launch, LauncherUnavailable, LaunchRefused
from kbatch_server.models.job import Job, JobStatus, Status
from kbatch_server.models.request import JobRequest
from kbatch_server.models.user import User
from kbatch_server.store.tables import jobs as jobs_table
from tests.support.stepping import do_step
from tests.support.world import World

pytestmark = pytest.mark.slow

ALICE = User(name="alice")
STEPS = [
    "launch.1", "launch.2", "launch.3", "launch.4", "launch.5", "launch.6", "finish.1", "finish.2",
    "archive.5", "archive.6", "cancel.4", "cancel.5", "cancel.6",
]  # fmt: skip
LOOKS_TO_SETTLE = 12


class Killed(BaseException):
    """The reconciler ends here, as by KILL: nothing after this line is done."""


class ModelLauncher(JobLauncher):
    """Runs nothing: a job is what the rules make of it. Like a real one, it starts what is not there."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.there: dict[str, JobStatus] = {}
        self.starts: Counter[str] = Counter()
        self.is_away = False
        self.ends_slowly = False
        self.refuses = False
        self.is_launching = asyncio.Event()
        self.may_launch = asyncio.Event()
        self.may_launch.set()

    def _answer(self) -> None:
        if self.is_away:
            raise LauncherUnavailable("it is away")

    async def launch(self, job: Job, launch: Launch) -> dict[str, object]:
        self._answer()
        if self.refuses:
            raise LaunchRefused("Refused", "It may not be.")
        reconciler_module.reach("launch.3")
        self.is_launching.set()
        await self.may_launch.wait()  # others may come in between
        if job.id not in self.there:
            self.there[job.id] = JobStatus(status=Status.PENDING)
            self.starts[job.id] += 1
        reconciler_module.reach("launch.4")
        return {"name": job.id}

    async def poll(self, job: Job) -> JobStatus | None:
        self._answer()
        seen = self.there.get(job.id)
        return None if seen is None else seen.model_copy()

    async def terminate(self, job: Job) -> bool:
        self._answer()
        if self.ends_slowly and job.id in self.there:
            return False
        self.there.pop(job.id, None)
        return True

    async def clean(self, job: Job) -> None:
        self._answer()


class KeepsNothing(Collector):
    """Logs and results are of no concern here."""

    def begin(self, job: Job) -> None: ...

    async def settle(self, job: Job) -> bool:
        return True

    async def delete(self, job: Job) -> None: ...


class ModelWorld(World):
    """The real parts around the model, for all orders of one test."""

    def __init__(self, db_url: str, runner: asyncio.Runner) -> None:
        super().__init__(db_url)
        self.runner = runner
        self.run(self.open())

    def run(self, coroutine):
        return self.runner.run(coroutine)

    def renew(self) -> None:
        """Begin anew, with an empty record."""
        self.launcher = ModelLauncher()
        super().renew()
        self.jobs.on_submit = lambda job: None
        self.jobs.on_change = lambda job_id: None

    async def look(self, job_id: str) -> None:
        """Do a job's next step, as a service does that was just started."""
        fresh = self.make_reconciler()
        fresh.collector = KeepsNothing(
            launcher=self.launcher, outputs=self.outputs, recorder=self.recorder, jobs=self.store.jobs
        )
        with suppress(LauncherUnavailable):
            await do_step(fresh, job_id)


@dataclass
class Known:
    """What a job's user was told of it."""

    id: str
    end: Status | None = None
    """The end that was seen first."""
    cancelled_at_once: bool = False
    is_deleted: bool = False


class Orders(RuleBasedStateMachine):
    """All that users, launcher, network and kills may do, in any order."""

    world: ModelWorld
    known_jobs = Bundle("known_jobs")

    def __init__(self) -> None:
        super().__init__()
        self.world.renew()
        self.known: dict[str, Known] = {}
        self.keys: dict[str, tuple[str, str]] = {}

    def find(self, job_id: str) -> Job | None:
        return self.world.run(self.world.store.jobs.find(job_id))

    @rule(target=known_jobs)
    def submit(self) -> Known:
        job, is_new = self.world.run(self.world.jobs.submit(ALICE, make_request("plain")))
        assert is_new
        return self.keep(job)

    def keep(self, job: Job) -> Known:
        return self.known.setdefault(job.id, Known(job.id))

    @rule(target=known_jobs, key=st.sampled_from("ab"), name=st.sampled_from(["x", "y"]))
    def submit_with_key(self, key: str, name: str) -> Known | None:
        used = self.keys.get(key)
        found = None if used is None else self.find(used[1])
        if found is None or found.delete_requested_at is not None:
            used = None  # its job was deleted, and its key went with it
        submit = self.world.jobs.submit(ALICE, make_request(name), idempotency_key=key)
        if used is not None and used[0] != name:
            with pytest.raises(Conflict):
                self.world.run(submit)
            return self.known[used[1]]
        job, is_new = self.world.run(submit)
        assert is_new == (used is None)
        assert used is None or job.id == used[1]
        self.keys[key] = (name, job.id)
        return self.keep(job)

    @rule(known=known_jobs)
    def cancel(self, known: Known) -> None:
        before = self.find(known.id)
        try:
            job = self.world.run(self.world.jobs.cancel(ALICE, known.id))
        except NotFound:
            assert known.is_deleted
        except Conflict:
            assert before is not None
            assert before.status in (Status.SUCCEEDED, Status.FAILED)
        else:
            assert not known.is_deleted
            assert before is not None
            assert not before.is_over or before.status == Status.CANCELLED
            if not before.is_over and job.status == Status.CANCELLED:
                assert before.launch_begun_at is None
                known.cancelled_at_once = True

    @rule(known=known_jobs)
    def delete(self, known: Known) -> None:
        if known.is_deleted:
            with pytest.raises(NotFound):
                self.world.run(self.world.jobs.delete(ALICE, known.id))
        else:
            self.world.run(self.world.jobs.delete(ALICE, known.id))
            known.is_deleted = True

    @rule(known=known_jobs)
    def look(self, known: Known) -> None:
        self.world.run(self.world.look(known.id))

    @rule(known=known_jobs, step=st.sampled_from(STEPS))
    def look_and_be_killed(self, known: Known, step: str) -> None:
        def kill(reached: str) -> None:
            if reached == step:
                raise Killed

        reach, reconciler_module.reach = reconciler_module.reach, kill
        try:
            with suppress(Killed):
                self.world.run(self.world.look(known.id))
        finally:
            reconciler_module.reach = reach

    @rule(known=known_jobs)
    def two_lead_for_a_moment(self, known: Known) -> None:
        async def look_twice() -> None:
            await asyncio.gather(self.world.look(known.id), self.world.look(known.id))

        self.world.run(look_twice())

    @rule(known=known_jobs, delete=st.booleans(), looks=st.integers(0, 3))
    def it_is_ended_while_an_old_leader_launches_it(self, known: Known, delete: bool, looks: int) -> None:
        async def do() -> None:
            launcher = self.world.launcher
            launcher.is_launching.clear()
            launcher.may_launch.clear()
            old = asyncio.create_task(self.world.look(known.id))
            begun = asyncio.create_task(launcher.is_launching.wait())
            await asyncio.wait([old, begun], return_when=asyncio.FIRST_COMPLETED)
            begun.cancel()
            if not old.done():
                end = self.world.jobs.delete if delete else self.world.jobs.cancel
                await end(ALICE, known.id)
                known.is_deleted = delete
                for _ in range(looks):
                    await self.world.look(known.id)
            launcher.may_launch.set()
            await old

        self.world.run(do())

    @rule(known=known_jobs, status=st.sampled_from([Status.RUNNING, Status.SUCCEEDED, Status.FAILED]))
    def it_goes_on(self, known: Known, status: Status) -> None:
        seen = self.world.launcher.there.get(known.id)
        if seen is not None and not seen.status.is_end:
            seen.status = status

    @rule(known=known_jobs)
    def somebody_removes_it(self, known: Known) -> None:
        job = self.find(known.id)
        if job is not None and job.launched_at is not None:  # before that, nobody can tell it from never made
            self.world.launcher.there.pop(known.id, None)

    @rule(is_away=st.booleans())
    def the_launcher_goes_or_comes(self, is_away: bool) -> None:
        self.world.launcher.is_away = is_away

    @rule(is_slow=st.booleans())
    def jobs_end_slowly_or_at_once(self, is_slow: bool) -> None:
        self.world.launcher.ends_slowly = is_slow

    @rule(refuses=st.booleans())
    def the_launcher_refuses_or_takes(self, refuses: bool) -> None:
        self.world.launcher.refuses = refuses

    @invariant()
    def no_job_is_started_twice(self) -> None:
        assert all(count == 1 for count in self.world.launcher.starts.values())

    @invariant()
    def no_job_is_lost_and_no_end_is_left(self) -> None:
        for known in self.known.values():
            job = self.find(known.id)
            if job is None:
                assert known.is_deleted, f"{known.id} is lost"
            elif known.end is not None:
                assert job.status == known.end
            elif job.is_over:
                known.end = job.status

    @invariant()
    def what_was_cancelled_at_once_never_ran(self) -> None:
        for known in self.known.values():
            if known.cancelled_at_once:
                assert self.world.launcher.starts[known.id] == 0

    def teardown(self) -> None:
        """With everything back, each job comes to its end, and nothing of it runs on."""
        launcher = self.world.launcher
        launcher.is_away = launcher.ends_slowly = launcher.refuses = False
        for _ in range(LOOKS_TO_SETTLE):
            store = self.world.store
            for job_id in [
                *self.world.run(store.jobs.list_due_ids()),
                *self.world.run(store.jobs.list_launched_ids()),
            ]:
                self.world.run(self.world.look(job_id))
                seen = launcher.there.get(job_id)
                if seen is not None and not seen.status.is_end:
                    seen.status = Status.SUCCEEDED
        self.no_job_is_started_twice()
        self.no_job_is_lost_and_no_end_is_left()
        for known in self.known.values():
            job = self.find(known.id)
            assert (job is None) == known.is_deleted
            assert job is None or job.is_over, f"{known.id} is stuck"
            runs_on = launcher.there.get(known.id)
            assert runs_on is None or runs_on.status.is_end, f"{known.id} is over, and runs on"
        self.world.run(self.world.store._database.write(lambda it: it.execute(delete(jobs_table))))


def make_request(name: str) -> JobRequest:
    return JobRequest(name=name, image="busybox", command=["true"])


def run_orders(db_url: str, examples: int) -> None:
    with asyncio.Runner() as runner:
        world = ModelWorld(db_url, runner)
        machine = type("TheseOrders", (Orders,), {"world": world})
        try:
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=25,
                    deadline=None,
                    derandomize=True,
                    database=None,
                    phases=[Phase.generate],  # to make an order shorter takes minutes
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            world.run(world.close())


@pytest.mark.parametrize("db_url", ["sqlite"], indirect=True)
def test_in_any_order_of_things_each_job_starts_once_and_ends_once(db_url: str) -> None:
    run_orders(db_url, 80)


@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
def test_in_any_order_of_things_each_job_starts_once_and_ends_once_on_postgresql(db_url: str) -> None:
    run_orders(db_url, 20)
