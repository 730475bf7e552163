"""Jobs over a limit wait for their turn and get it, whoever leads, with a real database below."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import update
from traitlets import TraitError
from traitlets.config import Config

from kbatch_server.errors import Forbidden, InvalidRequest, TooManyRequests, Unavailable
from kbatch_server.limits.config import Limits
from kbatch_server.limits.fairshare import get_month
from kbatch_server.models.job import JobStatus, Status
from kbatch_server.models.listing import JobQuery
from kbatch_server.models.request import JobRequest
from kbatch_server.models.times import utcnow
from kbatch_server.models.user import User
from kbatch_server.store.tables import jobs as job_table
from tests.support.stepping import launch_ready
from tests.support.waiting import until
from tests.support.world import World

ALICE, BOB = User(name="alice"), User(name="bob")
GROUPED = User(name="carol", groups=("course", "staff"))


class QueueWorld(World):
    """All between handlers and launcher; ``renew`` begins as a process does that was just started."""

    def __init__(self, url, **limits):
        self.limit_traits = limits
        self.job_config = {"image": "i", "keep_outputs": False}
        super().__init__(url)

    def set_limits(self, **limits):
        self.limit_traits = limits
        self.renew()

    def renew(self):
        self.config = Config(JobConfig=self.job_config, Limits=self.limit_traits)
        super().renew()

    async def submit(self, user=ALICE, **fields):
        fields = {"name": "job", "command": ["true"]} | fields
        return (await self.jobs.submit(user, JobRequest(**fields)))[0].id

    async def go_on(self):
        """Decide and do what is to be done, until there is nothing more."""
        while True:
            await self.scheduler.decide()
            if not self.scheduler and not self.reconciler.queue.count()["waiting"]:
                return
            await launch_ready(self.reconciler)
            while self.reconciler.queue.count()["waiting"]:
                job_id = await self.reconciler.queue.get()
                await self.reconciler.reconcile(job_id)
                self.reconciler.queue.done(job_id)

    async def end(self, job_id, *, after=timedelta(0)):
        """Have a job end that ran for so long until now."""
        now = utcnow()
        self.launcher.seen[job_id] = JobStatus(
            status=Status.SUCCEEDED, exit_code=0, started_at=now - after, ended_at=now
        )
        self.reconciler.queue.put(job_id)
        await self.go_on()

    @property
    def launched(self):
        return [job_id for job_id, _ in self.launcher.launched]

    async def show(self, user, job_id):
        return await self.jobs.get(user, job_id)


@pytest.fixture
async def make_world(db_url):
    made = []

    async def make(**limits):
        world = await QueueWorld(db_url, **limits).open()
        made.append(world)
        return world

    yield make
    for world in made:
        await world.close()


@pytest.mark.parametrize("owner", ["total", "group"])
async def test_a_job_for_which_the_limits_became_too_small_holds_up_nobody_else(make_world, owner):
    def make_limits(cpus):
        return (
            {"total_limits": {"cpu": cpus}}
            if owner == "total"
            else {"group_totals": {"course": {"cpu": cpus}}}
        )

    dave = User(name="dave", groups=("course",))
    world = await make_world(**make_limits(64))
    world.job_config["max_cpu_limit"] = 64
    world.renew()
    large = await world.submit(GROUPED, cpu_limit=48)
    world.set_limits(**make_limits(32))
    small = await world.submit(dave, cpu_limit=1)
    await world.go_on()
    assert world.launched == [small]
    shown = await world.show(GROUPED, large)
    assert shown.message.startswith("The job requests more than ")


async def test_what_is_over_a_limit_waits_with_place_and_reason_and_then_runs(make_world):
    world = await make_world(user_limits={"running": 2})
    ids = [await world.submit() for _ in range(4)]
    await world.go_on()
    assert world.launched == ids[:2]
    third, fourth = [await world.show(ALICE, job_id) for job_id in ids[2:]]
    assert (third.status, third.reason) == ("queued", "QuotaExceeded")
    assert third.message == "You have 2 of 2 jobs running. This job is 1st in your queue."
    assert fourth.message == "You have 2 of 2 jobs running. This job is 2nd in your queue."
    page = await world.jobs.list(ALICE, JobQuery(user="alice"))
    assert [job.message for job in page.jobs[:2]] == [fourth.message, third.message]
    await world.end(ids[0])
    assert world.launched == ids[:3]
    assert "1st in your" in (await world.show(ALICE, ids[3])).message
    await world.jobs.cancel(ALICE, ids[1])
    await world.go_on()
    assert world.launched == ids


async def test_without_limits_jobs_start_as_they_come_and_nothing_is_decided(make_world):
    world = await make_world()
    job_id = await world.submit()
    assert not world.scheduler.is_needed
    await world.scheduler.start()
    await world.reconciler.launch(*await world.scheduler.next())
    assert world.launched == [job_id]


@pytest.mark.parametrize("way", ["cancel", "delete"])
async def test_a_job_that_is_given_up_while_it_waits_frees_its_place_in_the_line(make_world, way):
    world = await make_world(user_limits={"running": 1})
    first, second, third = [await world.submit() for _ in range(3)]
    await world.go_on()
    await getattr(world.jobs, way)(ALICE, second)
    await world.go_on()
    assert "This job is 1st" in (await world.show(ALICE, third)).message
    await world.end(first)
    assert world.launched == [first, third]


async def test_another_leader_decides_the_same_from_the_record(make_world):
    world = await make_world(user_limits={"running": 2}, total_limits={"running": 3})
    mine = [await world.submit() for _ in range(3)]
    others = [await world.submit(BOB) for _ in range(3)]
    await world.go_on()
    begun = list(world.launched)
    assert sorted(begun) == sorted([mine[0], mine[1], others[0]])
    world.renew()
    await world.go_on()
    assert world.launched == begun
    world.renew()
    await world.end(mine[0], after=timedelta(hours=1))
    assert world.launched == [*begun, others[1]]  # who has used less
    assert (await world.show(ALICE, mine[2])).reason == "WaitingForTurn"


async def test_a_leader_that_is_killed_between_decision_and_launch_loses_and_doubles_nothing(make_world):
    world = await make_world(user_limits={"running": 1})
    first, second = [await world.submit() for _ in range(2)]
    await world.scheduler.decide()  # its turn has come, and nobody launches it
    world.renew()
    await world.go_on()
    assert world.launched == [first]
    await world.end(first)
    assert world.launched == [first, second]


async def test_jobs_that_other_replicas_took_in_are_found(make_world):
    world = await make_world(user_limits={"running": 5})
    await world.scheduler.decide()
    other = QueueWorld(world.store._database.url, user_limits={"running": 5})
    other.store = world.store
    other.renew()
    job_id = await other.submit()
    world.reconciler.queue.put(job_id)  # what a NOTIFY does
    await world.go_on()
    assert world.launched == [job_id]


async def test_priority_and_cpus_decide_within_a_users_own(make_world):
    world = await make_world(user_limits={"cpu": 4})
    ids = [await world.submit(cpu_limit=cpu, priority=priority) for cpu, priority in ((1, 0), (3, 5), (2, 5))]
    await world.go_on()
    assert world.launched == ids[1:2]
    waiting = await world.show(ALICE, ids[2])
    assert waiting.message == (
        "Your jobs use 3 of 4 CPUs, and the next one requests 2. This job is 1st in your queue."
    )
    await world.end(ids[1])
    assert world.launched == [ids[1], ids[2], ids[0]]
    assert (await world.show(ALICE, ids[1])).spec.priority == 5


async def test_a_long_queue_is_let_go_in_order_and_read_in_parts(make_world, monkeypatch):
    monkeypatch.setattr("kbatch_server.scheduling.scheduler.HEADS", 3)
    monkeypatch.setattr("kbatch_server.scheduling.scheduler.AHEAD", 4)
    world = await make_world(user_limits={"running": 15}, total_limits={"running": 20})
    ids = [await world.submit() for _ in range(17)]
    others = [await world.submit(BOB) for _ in range(7)]
    world.renew()
    await world.go_on()
    assert [job_id for job_id in world.launched if job_id in ids] == ids[: len(world.launched) - 7]
    assert len(world.launched) == 20
    assert set(others) <= set(world.launched)
    urgent = await world.submit(priority=9)
    await world.end(ids[0])
    assert world.launched[-1] == urgent


async def test_places_are_counted_to_an_end(make_world, monkeypatch):
    monkeypatch.setattr("kbatch_server.scheduling.report.PLACES", 2)
    world = await make_world(user_limits={"running": 1})
    ids = [await world.submit() for _ in range(4)]
    await world.go_on()
    assert (await world.show(ALICE, ids[3])).message == (
        "You may run one job at a time. More than 2 of your queued jobs are ahead of this one."
    )


# submits


async def test_as_many_as_may_be_queued_are_and_one_more_is_told_when_to_come_again(make_world):
    world = await make_world(user_limits={"queued": 3, "running": 1})
    ids = [await world.submit() for _ in range(3)]
    with pytest.raises(TooManyRequests, match="3 of your jobs are queued") as refused:
        await world.submit()
    assert (refused.value.reason, refused.value.retry_after_seconds) == ("QuotaExceeded", 60)
    await world.submit(BOB)
    await world.go_on()
    await world.submit()
    await world.jobs.cancel(ALICE, ids[2])
    await world.submit()
    with pytest.raises(TooManyRequests):
        await world.submit()


async def test_a_group_has_so_many_queued_together_whoever_submits_them(make_world):
    world = await make_world(group_totals={"course": {"queued": 3, "running": 1}})
    dora = User(name="dora", groups=("course",))
    ids = [await world.submit(user) for user in (GROUPED, dora, dora)]
    with pytest.raises(TooManyRequests, match="3 jobs of the group 'course' are queued"):
        await world.submit(GROUPED)
    await world.submit(BOB)
    await world.go_on()  # one of them has started
    ids.append(await world.submit(dora))
    with pytest.raises(TooManyRequests):
        await world.submit(GROUPED)
    await world.jobs.delete(dora, ids[-1])
    await world.go_on()
    results = await asyncio.gather(*(world.submit(GROUPED) for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in results].count(str) == 1


async def test_a_repeat_of_an_accepted_submit_is_answered_with_its_job_though_the_queue_is_full(make_world):
    world = await make_world(user_limits={"queued": 1})
    request = JobRequest(name="job", command=["true"])
    job, is_new = await world.jobs.submit(ALICE, request, idempotency_key="k")
    assert is_new
    again, is_new = await world.jobs.submit(ALICE, request, idempotency_key="k")
    assert (again.id, is_new) == (job.id, False)


async def test_the_limit_holds_for_submits_at_once_through_all_replicas(make_world):
    limits = {"user_limits": {"queued": 40}}
    worlds = [await make_world(**limits)]
    if worlds[0].store._database.is_shared:
        worlds += [await make_world(**limits) for _ in range(2)]

    async def submit(number):
        try:
            return await worlds[number % len(worlds)].submit(ALICE if number % 4 else BOB)
        except TooManyRequests:
            return None

    ids = await asyncio.gather(*(submit(number) for number in range(200)))
    assert len([job_id for job_id in ids if job_id]) == 80
    for user in ("alice", "bob"):
        assert await worlds[0].store.queues.count_queued(user) == 40


@pytest.mark.parametrize(
    ("limits", "fields", "field", "said"),
    [
        (
            {"user_limits": {"cpu": 4}},
            {"cpu_limit": 5.0},
            "cpu_limit",
            "more than your jobs may use together",
        ),
        ({"user_limits": {"cpu": 4}}, {}, "cpu_limit", "is required, because a limit of 4 CPUs applies"),
        ({"total_limits": {"memory": "4G"}}, {"mem_limit": 2**33}, "mem_limit", "together: 4 GiB of memory"),
        ({"user_limits": {"nvidia.com/gpu": 1}}, {"profile": "gpus"}, "profile", "'gpus' requests more than"),
        (
            {"user_limits": {"nvidia.com/gpu": 0}},
            {"profile": "gpus"},
            "profile",
            "of which your jobs may use",
        ),
    ],
)
async def test_a_job_that_could_never_start_is_refused_with_the_field(
    make_world, limits, fields, field, said
):
    world = await make_world(**limits)
    world.profiles.profile_list = [
        {
            "display_name": "GPUs",
            "slug": "gpus",
            "kbatch_override": {"extra_resource_limits": {"nvidia.com/gpu": "2"}},
        }
    ]
    with pytest.raises(InvalidRequest, match=said) as refused:
        await world.submit(**fields)
    assert [each["field"] for each in refused.value.details] == [field]


async def test_who_may_run_nothing_is_told_so(make_world):
    world = await make_world(group_limits={"guests": {"running": 0}})
    with pytest.raises(Forbidden, match="can never start: your limit for running jobs is 0"):
        await world.submit(User(name="g", groups=("guests",)))
    await world.submit()


async def test_a_group_has_its_members_limits_and_one_for_all_together(make_world):
    world = await make_world(
        user_limits={"running": 1},
        group_limits={"staff": {"running": 3}},
        group_totals={"course": {"running": 2, "cpu": 2}},
    )
    with pytest.raises(InvalidRequest, match="the jobs of the group 'course' may use"):
        await world.submit(GROUPED, cpu_limit=3.0)
    ids = [await world.submit(GROUPED, cpu_limit=0.5) for _ in range(3)]
    await world.go_on()
    assert world.launched == ids[:2]
    assert (await world.show(GROUPED, ids[2])).message == (
        "The group 'course' has 2 of 2 jobs running. This job is 1st in your queue."
    )


async def test_a_hook_says_what_the_limits_are_and_is_not_asked_each_time(make_world):
    asked = []

    async def hook(user, groups, limits):
        asked.append((user, groups, dict(limits)))
        return limits | {"running": 2}

    world = await make_world(user_limits={"running": 1, "queued": 9}, limits_hook=hook)
    ids = [await world.submit() for _ in range(3)]
    await world.go_on()
    assert world.launched == ids[:2]
    assert asked == [("alice", (), {"running": 1, "queued": 9})]


async def test_a_hook_that_fails_or_hangs_refuses_for_now_and_starts_nothing(make_world, caplog):
    async def hook(user, groups, limits):
        if fails:
            await asyncio.sleep(60)
        return limits

    fails = False
    world = await make_world(limits_hook=hook, hook_timeout_seconds=0.1, hook_max_age_seconds=0)
    job_id = await world.submit()
    fails = True
    with pytest.raises(Unavailable, match="limits cannot be read"):
        await world.submit()
    await world.go_on()
    assert world.launched == []
    assert (await world.show(ALICE, job_id)).reason == "LimitsUnknown"
    fails = False
    world.scheduler.queues.get_queue("alice").is_stale = True
    await world.go_on()
    assert world.launched == [job_id]


@pytest.mark.parametrize(
    "traits",
    [
        {"user_limits": {"jobs": 1}},
        {"group_limits": {"g": {"cpu": "x"}}},
        {"group_totals": {"g": {"jobs": 1}}},
        {"total_limits": {"queued": 1}},
        {"total_limits": {"job_hours_per_month": 1}},
        {"group_limits": {"g": 3}},
    ],
)
def test_limits_that_mean_nothing_end_the_start_with_their_name(traits):
    with pytest.raises(TraitError, match=f"Limits.{next(iter(traits))}"):
        Limits(**traits)


# use


async def read_hours(world, user):
    return (await world.jobs.usage_report.describe(user))["usage"]["job_hours_per_month"]


async def test_hours_are_counted_once_and_stay_when_the_job_is_deleted(make_world):
    world = await make_world(user_limits={"job_hours_per_month": 2})
    first, second, _ = [await world.submit() for _ in range(3)]
    await world.go_on()
    assert len(world.launched) == 3
    now = utcnow()
    hour = min(timedelta(hours=1), now - now.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    hours = hour.total_seconds() / 3600
    await world.end(first, after=hour)
    assert await read_hours(world, ALICE) == pytest.approx(hours, abs=0.01)
    # by whoever, and however often: an end is written once
    assert await world.store.jobs.update(first, status=Status.FAILED, ended_at=utcnow()) is None
    await world.jobs.delete(ALICE, first)
    await world.go_on()
    assert await world.store.jobs.find(first) is None
    assert await read_hours(world, ALICE) == pytest.approx(hours, abs=0.01)
    # what is deleted while it runs has run
    started = utcnow() - hour
    world.launcher.seen[second] = JobStatus(status=Status.RUNNING, started_at=started)
    world.reconciler.queue.put(second)
    await world.go_on()
    assert await read_hours(world, ALICE) == pytest.approx(2 * hours, abs=0.01)
    await world.jobs.delete(ALICE, second)
    await world.go_on()
    assert await world.store.jobs.find(second) is None
    assert await read_hours(world, ALICE) == pytest.approx(2 * hours, abs=0.01)


async def test_a_user_without_hours_left_waits_for_the_next_month(make_world):
    world = await make_world(user_limits={"job_hours_per_month": 0.0001})
    first = await world.submit()
    await world.go_on()
    await world.end(first, after=timedelta(seconds=30))
    second = await world.submit()
    await world.go_on()
    assert world.launched == [first]
    assert "of 0.0001 job-hours this month" in (await world.show(ALICE, second)).message
    world.scheduler._month = get_month(utcnow() - timedelta(days=40))
    await world.store._database.write(
        lambda connection: connection.exec_driver_sql("UPDATE monthly_use SET month = '2000-01'")
    )
    await world.go_on()
    assert world.launched == [first, second]


async def test_two_leaders_at_once_count_an_end_once(make_world):
    world = await make_world(user_limits={"running": 9})
    ids = [await world.submit() for _ in range(10)]
    await world.go_on()
    others = [world.store]
    if world.store._database.is_shared:
        others.append((await make_world(user_limits={"running": 9})).store)
    now = utcnow()
    end = {"status": Status.SUCCEEDED, "started_at": now - timedelta(seconds=36), "ended_at": now}

    async def write(store, job_id):
        for _ in range(3):
            await store.jobs.update(job_id, **end)

    await asyncio.gather(*(write(store, job_id) for store in others for job_id in ids[:9]))
    uses = await world.store.usage.find(["alice"], now=now)
    assert uses["alice"].month_seconds <= 9 * 36 + 1e-6
    assert uses["alice"].amount == pytest.approx(9 * 36, rel=0.01)


async def test_who_asks_sees_limits_use_and_queue(make_world):
    world = await make_world(
        user_limits={"running": 1, "cpu": 4, "memory": "8G"},
        group_totals={"course": {"cpu": 64}},
    )
    ids = [await world.submit(GROUPED, cpu_limit=1.5, mem_limit=2**30) for _ in range(3)]
    await world.go_on()
    shown = await world.jobs.usage_report.describe(GROUPED)
    assert shown == {
        "limits": {"running": 1, "cpu": 4, "memory": 8 * 2**30},
        "group_totals": {"course": {"cpu": 64}},
        "usage": {"queued": 2, "running": 1, "cpu": 1.5, "memory": 2**30, "job_hours_per_month": 0.0},
        "queue": {
            "reason": "QuotaExceeded",
            "message": "You may run one job at a time. This job is 1st in your queue.",
            "jobs": [
                {"id": job_id, "name": "job", "place": place} for place, job_id in enumerate(ids[1:], 1)
            ],
        },
    }
    nothing = await world.jobs.usage_report.describe(BOB)
    assert nothing["queue"] == {"reason": "", "message": "", "jobs": []}


async def test_what_runs_of_a_user_is_read_once_at_a_time_however_many_ask(make_world, monkeypatch):
    world = await make_world(user_limits={"running": 2})
    for _ in range(3):
        await world.submit()
    await world.go_on()
    reads, read = [], world.store._database.read
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def count(operation, *, is_costly=False):
        if is_costly:
            reads.append(operation)
            begun.set()
            await go_on.wait()
        return await read(operation, is_costly=is_costly)

    monkeypatch.setattr(world.store._database, "read", count)
    usage_report = world.jobs.usage_report
    asked = [asyncio.create_task(usage_report.describe(ALICE)) for _ in range(20)]
    await begun.wait()
    asked[0].cancel()  # whoever is the first of them, one goes
    asyncio.get_running_loop().call_later(0.3, go_on.set)
    shown = await asyncio.gather(*asked, return_exceptions=True)
    assert [each["usage"]["running"] for each in shown[1:]] == [2] * 19
    assert 1 <= len(reads) < 20 / 4
    assert not usage_report._reading
    assert (await usage_report.describe(ALICE))["usage"] == shown[1]["usage"]


async def test_what_was_missed_is_found_when_all_is_counted_anew(make_world):
    world = await make_world(user_limits={"running": 1})
    first, second = [await world.submit() for _ in range(2)]
    await world.go_on()
    # as another process would that led for a moment
    await world.store._database.write(
        lambda connection: connection.execute(
            update(job_table).where(job_table.c.id == first).values(status="failed", ended_at=utcnow())
        )
    )
    await world.go_on()
    assert world.launched == [first]
    world.scheduler._counted_at = float("-inf")
    await world.go_on()
    assert world.launched == [first, second]


@pytest.mark.slow
async def test_the_task_decides_by_itself_and_goes_on_after_an_error(make_world, caplog):
    world = await make_world(user_limits={"running": 1})
    fails = [Unavailable("The database does not respond.")]
    original = world.store.queues.read_heads

    async def read_heads(*args, **kwargs):
        if fails:
            raise fails.pop()
        return await original(*args, **kwargs)

    world.store.queues.read_heads = read_heads
    first, second = [await world.submit() for _ in range(2)]
    await world.scheduler.start()
    await world.reconciler.start()
    try:
        async with asyncio.timeout(10):
            await until(lambda: world.launched)
            world.launcher.seen[first] = JobStatus(status=Status.SUCCEEDED, exit_code=0)
            world.reconciler.notice(first)
            await until(lambda: len(world.launched) == 2)
    finally:
        await world.reconciler.stop()
        await world.scheduler.stop()
    assert world.launched == [first, second]
    assert "scheduling failed" in caplog.text
