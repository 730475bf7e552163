"""Each job's way from accepted to over, also when the service is killed or the launcher cannot be asked."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from datetime import timedelta

import pytest

from kbatch_server.engine.relaunch import RELAUNCH
from kbatch_server.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unavailable
from kbatch_server.keyring import Keyring
from kbatch_server.launchers.base import LauncherUnavailable, LaunchRefused
from kbatch_server.launchers.local.launcher import LocalProcessJobLauncher
from kbatch_server.models.job import JobStatus, Pod, Status
from kbatch_server.models.listing import JobQuery
from kbatch_server.models.request import JobRequest
from kbatch_server.models.times import utcnow
from kbatch_server.models.user import User
from kbatch_server.notebooks.launch import EXIT_REASONS
from kbatch_server.storage.base import StorageFull
from tests.support.stepping import do_step
from tests.support.tars import make_tar, pieces_of
from tests.support.zips import make_mixed_zip

ALICE, BOB = User(name="alice"), User(name="bob")
ADMIN = User(name="root", admin=True)


async def submit(world, user=ALICE, **fields):
    fields = {"name": "job", "image": "busybox", "command": ["true"]} | fields
    return (await world.jobs.submit(user, JobRequest(**fields)))[0]


async def test_a_job_that_the_launcher_cannot_run_is_refused_when_it_is_submitted(world):
    world.launcher.check_spec = LocalProcessJobLauncher().check_spec
    with pytest.raises(InvalidRequest, match="command: is required"):
        await submit(world, command=None)
    assert (await world.jobs.list(ALICE, JobQuery(user=ALICE.name))).jobs == []


async def test_a_notebook_is_refused_by_a_launcher_that_runs_none_and_else_its_end_is_told_in_words(world):
    notebook = {"command": None, "notebook": {"path": "a.ipynb"}}
    world.launcher.runs_notebooks = False
    with pytest.raises(InvalidRequest, match="notebook: is not supported"):
        await submit(world, **notebook)
    world.launcher.runs_notebooks = True
    job = await step(world, await submit(world, **notebook))
    see(world, job, Status.FAILED, reason="Error", message="Exit code 93.", exit_code=93, ended_at=utcnow())
    job = await step(world, job)
    assert (job.status, job.reason, job.exit_code) == ("failed", "KernelDied", 93)
    assert job.message == EXIT_REASONS[93][1]


async def test_a_folder_to_run_in_is_one_of_an_upload_and_holds_when_the_job_is_run_again(world):
    with pytest.raises(InvalidRequest, match="working_dir: requires upload: it names a folder in the code"):
        await submit(world, working_dir="src")
    upload = await world.uploads.receive(ALICE, pieces_of(make_mixed_zip()))
    job = await submit(world, upload=upload.id, working_dir="./sub//")
    assert job.spec.working_dir == "sub"
    await step(world, job)
    assert world.launcher.launched[-1][1].code_sha256 == upload.code_sha256 != upload.sha256
    assert (await world.jobs.rerun(ALICE, job.id)).spec.working_dir == "sub"
    assert (await submit(world, working_dir="")).spec.working_dir is None


async def test_limits_count_the_whole_cpus_that_a_job_on_one_machine_has(world):
    world.launcher.round_spec = LocalProcessJobLauncher().round_spec
    assert (await submit(world, cpu_limit=0.001)).spec.cpu_limit == 1
    assert (await submit(world, cpu_limit=2.5)).spec.cpu_limit == 3
    assert (await submit(world)).spec.cpu_limit is None


async def step(world, job):
    """Do the next step, as a service would that was just started: it remembers nothing."""
    await do_step(world.make_reconciler(), job.id)
    return await world.store.jobs.find(job.id)


def see(world, job, status, **fields):
    world.launcher.seen[job.id] = JobStatus(status=status, **fields)


async def test_a_job_is_launched_once_and_its_end_is_recorded(world):
    job = await submit(world, env={"A": "mine"})
    assert job.status == "queued"
    job = await step(world, job)
    assert job.status == "pending"
    see(
        world,
        job,
        Status.RUNNING,
        started_at=utcnow(),
        pods=[Pod(name="p", phase="Running", created_at=utcnow())],
    )
    job = await step(world, job)
    assert (job.status, job.attempts) == ("running", 1)
    see(world, job, Status.FAILED, reason="Error", message="Exit code 3.", exit_code=3, ended_at=utcnow())
    job = await step(world, job)
    assert (job.status, job.reason, job.exit_code) == ("failed", "Error", 3)
    assert job.ended_at is not None
    [(job_id, launch)] = world.launcher.launched
    assert job_id == job.id
    own_token = launch.env["KBATCH_JOB_TOKEN"]
    assert own_token.startswith("kbatch-job-")
    assert launch.env == {
        "KBATCH_JOB_TOKEN": own_token,
        "KBATCH_URL": world.links.url_for_jobs,
        "PYTHONUNBUFFERED": "1",
        "TERM": "xterm-256color",
        "COLUMNS": "120",
        "SITE": "here",
        "A": "mine",
        "JUPYTERHUB_USER": "alice",
        "JUPYTER_IMAGE": job.spec.image,
        "JUPYTER_IMAGE_SPEC": job.spec.image,
        "KBATCH_JOB_ID": job.id,
        "KBATCH_JOB_NAME": "job",
    }


async def test_a_job_knows_its_size_as_a_server_does(world):
    job = await submit(world, cpu_limit=1.5, mem_limit=2**30, env={"MEM_LIMIT": "mine"})
    await step(world, job)
    [(_, launch)] = world.launcher.launched
    sizes = {name: value for name, value in launch.env.items() if name.startswith(("CPU_", "MEM_"))}
    assert sizes == {"CPU_LIMIT": "1.5", "MEM_LIMIT": "mine"}


async def test_how_a_program_writes_its_log_is_for_the_user_to_choose(world):
    job = await submit(world, env={"PYTHONUNBUFFERED": "", "COLUMNS": "80"})
    await step(world, job)
    [(_, launch)] = world.launcher.launched
    assert [launch.env[name] for name in ("PYTHONUNBUFFERED", "COLUMNS")] == ["", "80"]


def see_refused(world, job):
    see(world, job, Status.FAILED, reason="OutOfcpu", message="Its node was full.", never_began=True)


async def make_due(world, job):
    """Let the time pass after which a job is launched again."""
    state = job.state | {RELAUNCH: job.state[RELAUNCH] | {"at": "2020-01-01T00:00:00Z"}}
    return await world.store.jobs.update(job.id, state=state)


async def test_a_job_whose_node_did_not_take_it_is_launched_again_some_times(world):
    job = await step(world, await submit(world))
    for count, delay in enumerate((10, 20, 40, 80, 160, 320), 1):
        see(world, job, Status.PENDING, pods=[Pod(name="a", phase="Pending", created_at=utcnow())])
        assert (await step(world, job)).attempts == 1
        see_refused(world, job)
        job = await step(world, job)
        assert (job.status, job.reason, job.ended_at) == ("pending", "OutOfcpu", None)
        assert (job.attempts, job.pods) == (0, [])
        assert job.message == (f"Its node was full. The command did not start. Retrying in {delay} s.")
        job = await step(world, job)  # too early
        assert len(world.launcher.launched) == count
        job = await make_due(world, job)
        world.launcher.ends_slowly = True
        job = await step(world, job)
        assert job.launched_at is not None  # what there is of it is not gone yet
        world.launcher.ends_slowly = False
        world.launcher.seen[job.id] = None
        job = await step(world, job)
        assert (job.launched_at, job.attempts) == (None, 0)
        job = await step(world, job)
        assert job.launched_at is not None
        assert len(world.launcher.launched) == count + 1
    see_refused(world, job)
    job = await step(world, job)
    assert (job.status, job.reason, job.message) == ("failed", "OutOfcpu", "Its node was full.")


async def test_a_job_that_was_seen_to_run_is_not_launched_again(world):
    job = await step(world, await submit(world))
    see(world, job, Status.RUNNING, started_at=utcnow())
    job = await step(world, job)
    see_refused(world, job)
    assert (await step(world, job)).status == "failed"
    assert len(world.launcher.launched) == 1


async def test_a_job_that_waits_to_be_launched_again_can_be_cancelled(world):
    job = await step(world, await submit(world))
    see_refused(world, job)
    job = await step(world, job)
    await world.jobs.cancel(ALICE, job.id)
    job = await step(world, job)
    assert job.status == "cancelled"
    assert len(world.launcher.launched) == 1


async def test_a_job_whose_command_has_ended_well_ends_though_its_pod_does_not(world):
    job = await step(world, await submit(world))
    running = {"reason": "SidecarRunning", "message": "A proxy still runs.", "exit_code": 0}
    see(world, job, Status.RUNNING, finish_at=utcnow() + timedelta(seconds=60), **running)
    job = await step(world, job)
    assert (job.status, job.reason) == ("running", "SidecarRunning")
    see(world, job, Status.RUNNING, finish_at=utcnow(), **running)
    job = await step(world, job)
    world.launcher.ends_slowly = True
    # what ran beside it may end as it likes, and the Job fail for it
    see(world, job, Status.FAILED, reason="Error", message="Exit code 137.", exit_code=137)
    job = await step(world, job)
    assert job.status == "running"
    world.launcher.ends_slowly = False
    job = await step(world, job)
    assert (job.status, job.reason, job.exit_code) == ("succeeded", "Complete", 0)
    assert world.launcher.finished == []


async def test_of_a_job_whose_command_has_failed_only_the_pod_is_ended(world):
    job = await step(world, await submit(world, retries=1))
    see(world, job, Status.RUNNING, reason="SidecarRunning", exit_code=3, finish_at=utcnow())
    job = await step(world, job)
    assert (job.status, world.launcher.finished) == ("running", [job.id])
    see(world, job, Status.PENDING, message="Attempt 2 of 2 starts soon.")
    assert (await step(world, job)).status == "pending"


async def test_an_end_is_never_left_again(world):
    job = await submit(world)
    await step(world, job)
    see(world, job, Status.SUCCEEDED, exit_code=0)
    await step(world, job)
    see(world, job, Status.RUNNING)
    assert (await step(world, job)).status == "succeeded"


async def test_a_launcher_that_does_not_answer_changes_no_status(world):
    job = await submit(world)
    world.launcher.fails = LauncherUnavailable("no route to the API server")
    with pytest.raises(LauncherUnavailable):
        await step(world, job)
    waiting = await world.store.jobs.find(job.id)
    assert waiting.status == "queued"
    assert "no route to the API server" in waiting.message
    world.launcher.fails = None
    await step(world, job)
    world.launcher.fails = LauncherUnavailable("again")
    with pytest.raises(LauncherUnavailable):
        await step(world, job)
    assert (await world.store.jobs.find(job.id)).status == "pending"


async def test_a_job_that_is_refused_for_good_fails_with_the_reason(world):
    job = await submit(world)
    world.launcher.fails = LaunchRefused("Forbidden", "The namespace takes no more pods.")
    job = await step(world, job)
    assert (job.status, job.reason, job.message) == (
        "failed",
        "Forbidden",
        "The namespace takes no more pods.",
    )


async def test_a_job_deleted_by_hand_is_lost_and_not_started_again(world):
    job = await submit(world)
    await step(world, job)
    world.launcher.seen.clear()
    job = await step(world, job)
    assert (job.status, job.reason) == ("failed", "Lost")
    assert len(world.launcher.launched) == 1


async def test_a_service_killed_between_launch_and_record_launches_again_which_the_launcher_makes_harmless(
    world,
):
    job = await submit(world)
    update, world.store.jobs.update = world.store.jobs.update, _killed
    with pytest.raises(KeyboardInterrupt):
        await step(world, job)
    world.store.jobs.update = update
    assert (await step(world, job)).status == "pending"
    assert [job_id for job_id, _ in world.launcher.launched] == [job.id, job.id]


async def _killed(*args, **kwargs):
    raise KeyboardInterrupt


async def test_the_next_attempt_is_let_go_when_its_time_has_come_and_not_before(world):
    job = await submit(world, retries=1, retry_delay_seconds=60)
    await step(world, job)
    see(world, job, Status.PENDING, reason="BackOff", held_until=utcnow() + timedelta(seconds=60))
    await step(world, job)
    assert world.launcher.released == []
    see(world, job, Status.PENDING, reason="BackOff", held_until=utcnow())
    await step(world, job)
    assert world.launcher.released == [job.id]


async def test_a_job_that_ended_while_an_old_leader_launched_it_does_not_run_on(world):
    job = await submit(world)
    launch = world.launcher.launch

    async def launch_late(job, asked):
        await world.jobs.cancel(ALICE, job.id)
        assert (await step(world, job)).status == "cancelled"
        return await launch(job, asked)

    world.launcher.launch = launch_late
    assert (await step(world, job)).status == "cancelled"
    assert world.launcher.seen == {}


async def test_a_queued_job_is_cancelled_at_once_and_never_launched(world):
    job = await submit(world)
    cancelled = await world.jobs.cancel(ALICE, job.id)
    assert cancelled.status == "cancelled"
    await step(world, job)
    assert world.launcher.launched == []


async def test_a_running_job_is_cancelled_when_nothing_of_it_is_left(world):
    job = await submit(world)
    await step(world, job)
    see(world, job, Status.RUNNING)
    await step(world, job)
    world.launcher.ends_slowly = True
    assert (await world.jobs.cancel(ALICE, job.id)).status == "running"
    ending = await step(world, job)
    assert (ending.status, ending.reason) == ("running", "Terminating")
    world.launcher.ends_slowly = False
    assert (await step(world, job)).status == "cancelled"
    assert (await world.jobs.cancel(ALICE, job.id)).status == "cancelled"


async def test_a_job_whose_pods_were_removed_for_a_cancel_is_cancelled_and_has_not_failed(world):
    # the API server may take its time between the removal of the pods and that of the Job
    job = await submit(world)
    await step(world, job)
    await world.jobs.cancel(ALICE, job.id)
    see(world, job, Status.FAILED, reason="Deleted", message="Its pod was deleted.", was_removed=True)
    assert (await step(world, job)).status == "cancelled"


async def test_a_job_whose_pods_were_removed_at_its_deadline_has_exceeded_it(world):
    job = await submit(world)
    await step(world, job)
    see(world, job, Status.RUNNING, deadline_at=utcnow(), deadline_message="It took too long.")
    await step(world, job)
    see(world, job, Status.FAILED, reason="Deleted", message="Its pod was deleted.", was_removed=True)
    ended = await step(world, job)
    assert (ended.status, ended.reason, ended.message) == ("failed", "DeadlineExceeded", "It took too long.")


async def test_a_cancel_that_comes_while_the_launch_is_under_way_ends_the_job(world):
    job = await submit(world)
    assert await world.store.jobs.begin_launch(job.id)
    assert (await world.jobs.cancel(ALICE, job.id)).status == "queued"
    assert (await step(world, job)).status == "cancelled"
    assert world.launcher.launched == []


async def test_a_job_that_ended_before_the_cancel_keeps_its_own_end(world):
    job = await submit(world)
    await step(world, job)
    await world.jobs.cancel(ALICE, job.id)
    see(world, job, Status.SUCCEEDED, exit_code=0)
    assert (await step(world, job)).status == "succeeded"
    with pytest.raises(Conflict, match="succeeded"):
        await world.jobs.cancel(ALICE, job.id)


@pytest.mark.parametrize(
    ("blocked_on", "waited", "fails"),
    [("start", 601, True), ("start", 599, False), ("schedule", 86401, True), ("schedule", 86399, False)],
)
async def test_a_job_that_cannot_start_fails_after_its_limit_with_the_words_of_why(
    world, blocked_on, waited, fails
):
    job = await submit(world)
    await step(world, job)
    since = utcnow() - timedelta(seconds=waited)
    message = "The image 'nope' cannot be pulled."
    see(world, job, Status.PENDING, reason="Why", message=message, blocked_since=since, blocked_on=blocked_on)
    await step(world, job)
    job = await step(world, job)
    assert job.status == ("failed" if fails else "pending")
    assert job.reason == "Why"
    assert job.message.startswith(message)
    assert ("Timed out after" in job.message) == fails


async def test_a_job_given_up_keeps_the_reason_when_the_service_is_killed_while_it_ends(world):
    job = await submit(world)
    await step(world, job)
    since = utcnow() - timedelta(days=1)
    see(
        world,
        job,
        Status.PENDING,
        reason="ErrImagePull",
        message="No.",
        blocked_since=since,
        blocked_on="start",
    )
    await step(world, job)
    world.launcher.seen.clear()  # it was terminated, and nobody wrote it down
    job = await step(world, job)
    assert (job.status, job.reason) == ("failed", "ErrImagePull")


async def test_a_deleted_job_is_ended_and_then_forgotten(world):
    job = await submit(world)
    await step(world, job)
    await world.jobs.delete(ALICE, job.id)
    with pytest.raises(NotFound):
        await world.jobs.get(ALICE, job.id)
    assert await step(world, job) is None
    assert world.launcher.seen == {}


async def test_nobody_reads_or_changes_the_job_of_another_but_an_admin(world):
    job = await submit(world)
    for action in (world.jobs.get, world.jobs.cancel, world.jobs.delete, world.jobs.rerun, world.jobs.events):
        with pytest.raises(NotFound):
            await action(BOB, job.id)
    with pytest.raises(NotFound):
        await world.jobs.logs(BOB, job.id)
    assert (await world.jobs.list(BOB, JobQuery(user="bob"))).jobs == []
    assert (await world.jobs.get(ADMIN, job.id)).id == job.id


async def test_a_rerun_asks_for_the_same_again(world):
    job = await submit(world, env={"A": "1"}, args=["x"], tags={"t": "u"}, retries=2, cpu_limit=2.0)
    again = await world.jobs.rerun(ALICE, job.id)
    assert again.id != job.id
    assert (again.spec, again.tags, again.name) == (job.spec, job.tags, job.name)
    assert await world.jobs.read_env(again) == {"A": "1"}


async def test_the_log_of_a_job_that_has_none_is_not_found_and_says_why(world):
    job = await submit(world)
    with pytest.raises(NotFound, match="Waiting to start"):
        await world.jobs.logs(ALICE, job.id)


async def collect(pieces):
    return b"".join([piece.data async for piece in pieces])


async def test_a_follower_waits_for_the_start_and_ends_with_the_job(world):
    job = await submit(world)
    pieces = await world.jobs.logs(ALICE, job.id, follow=True)
    await step(world, job)
    pod = Pod(name=f"{job.id}-x", phase="Succeeded", created_at=utcnow())
    world.launcher.logs[pod.name].write(b"one\ntwo\n")
    world.launcher.logs[pod.name].end()
    see(world, job, Status.SUCCEEDED, exit_code=0, pods=[pod])
    await step(world, job)
    await step(world, job)
    assert await collect(pieces) == b"one\ntwo\n"


async def test_a_follower_goes_on_to_the_next_attempt_when_one_left_no_log(world):
    job = await submit(world)
    pieces = await world.jobs.logs(ALICE, job.id, follow=True)
    await step(world, job)
    pods = [Pod(name=name, phase="Failed", created_at=utcnow()) for name in ("first", "second")]
    world.launcher.logs["second"].write(b"from the second\n")
    world.launcher.logs["second"].end()
    see(world, job, Status.SUCCEEDED, exit_code=0, pods=pods)
    await step(world, job)
    await step(world, job)
    assert await collect(pieces) == b"from the second\n"


async def test_a_log_that_is_cut_off_is_not_told_twice(world):
    job = await submit(world)
    pieces = await world.jobs.logs(ALICE, job.id, follow=True)
    await step(world, job)
    log = world.launcher.logs["p"]
    log.write(b"one\ntwo\n")
    log.breaks_at = [5]
    log.end()
    see(world, job, Status.RUNNING, pods=[Pod(name="p", phase="Running", created_at=utcnow())])
    await step(world, job)
    see(world, job, Status.SUCCEEDED)
    await step(world, job)
    assert await collect(pieces) == b"one\ntwo\n"
    assert log.begun_at == [0, 5]


async def test_a_job_is_not_let_go_before_its_log_is_kept(world):
    cleaned = []

    async def clean(job):
        cleaned.append(job.id)

    world.launcher.clean = clean
    job = await submit(world)
    await step(world, job)
    pod = Pod(name="p", phase="Running", created_at=utcnow())
    log = world.launcher.logs["p"]
    log.write(b"begun\n")
    see(world, job, Status.SUCCEEDED, exit_code=0, pods=[pod])
    await step(world, job)
    for _ in range(3):
        job = await step(world, job)
        assert (job.status, job.cleaned_at, cleaned) == ("succeeded", None, [])
    log.write(b"ended\n")
    log.end()
    assert await asyncio.wait_for(world.reconciler.queue.get(), 5) == job.id
    await _until(lambda: step(world, job), lambda found: found.cleaned_at is not None)
    assert cleaned == [job.id]
    assert await collect(await world.jobs.logs(ALICE, job.id)) == b"begun\nended\n"


@pytest.mark.slow
async def test_nothing_is_kept_of_the_log_of_a_deleted_job(world):
    job = await submit(world)
    await step(world, job)
    log = world.launcher.logs["p"]
    log.write(b"secret\n")
    see(world, job, Status.RUNNING, pods=[Pod(name="p", phase="Running", created_at=utcnow())])
    await step(world, job)
    world.recorder.flush_seconds = 0.1
    await _until(lambda: world.store.logs.list_logs(job.id), bool, seconds=10)
    assert world.storage.objects
    await world.jobs.delete(ALICE, job.id)
    assert await step(world, job) is None
    assert world.storage.objects == {}
    assert await world.store.logs.list_logs(job.id) == []
    assert world.launcher.open_logs == 0


async def test_pods_that_were_seen_once_stay_on_record(world):
    job = await submit(world)
    await step(world, job)
    see(world, job, Status.RUNNING, pods=[Pod(name="first", phase="Failed", created_at=utcnow())])
    await step(world, job)
    see(world, job, Status.RUNNING, pods=[Pod(name="second", phase="Running", created_at=utcnow())])
    job = await step(world, job)
    assert ([pod.name for pod in job.pods], job.attempts) == (["first", "second"], 2)


async def test_an_error_at_the_launch_is_told_and_the_launch_tried_again(world):
    job = await submit(world)
    world.launcher.fails = ZeroDivisionError("in the admin's hook")
    with pytest.raises(ZeroDivisionError):
        await step(world, job)
    job = await world.store.jobs.find(job.id)
    assert (job.status, job.reason) == ("queued", "LaunchFailed")
    assert "hook" not in job.message
    world.launcher.fails = None
    assert (await step(world, job)).status == "pending"


async def test_stopping_ends_a_worker_that_meets_an_error_while_it_is_cancelled(world):
    begun = asyncio.Event()

    async def launch(job, launch):
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            raise OSError("the folder is not empty")

    world.launcher.launch = launch
    await world.reconciler.start()
    await submit(world)
    await begun.wait()
    async with asyncio.timeout(5):
        await world.reconciler.stop()


async def test_jobs_that_wait_for_their_launch_are_not_even_read_and_hold_up_nobody(world):
    world.launcher.max_launches_per_second = 0.01
    read, find_job = [], world.store.jobs.find
    world.store.jobs.find = lambda job_id: read.append(job_id) or find_job(job_id)
    await world.reconciler.start()
    try:
        first = await submit(world)
        crowd = [await submit(world, name="crowd") for _ in range(30)]
        await _until(lambda: find_job(first.id), lambda found: found.status == "pending")
        see(world, first, Status.SUCCEEDED)
        world.reconciler.notice(first.id)
        await world.jobs.cancel(ALICE, crowd[7].id)
        for job, end in ((first, "succeeded"), (crowd[7], "cancelled")):
            await _until(lambda job=job: find_job(job.id), lambda found, end=end: found.status == end)
    finally:
        await world.reconciler.stop()
    assert [job_id for job_id, _ in world.launcher.launched] == [first.id]
    assert set(read) == {first.id, crowd[7].id}


async def test_a_job_is_not_launched_while_it_is_looked_at_nor_looked_at_while_it_is_launched(world):
    """A cancel, or a look at all jobs, may meet it in either."""
    hands, most = 0, 0
    launcher, find = world.launcher, world.store.jobs.find

    @contextmanager
    def in_hand():
        nonlocal hands, most
        hands += 1
        most = max(most, hands)
        yield
        hands -= 1

    async def find_slowly(job_id):
        with in_hand():
            await asyncio.sleep(0.02)
            return await find(job_id)

    async def launch_slowly(job, launch, launch_of=launcher.launch):
        with in_hand():
            await asyncio.sleep(0.05)
            return await launch_of(job, launch)

    launcher.launch, world.store.jobs.find = launch_slowly, find_slowly
    await world.reconciler.start()
    try:
        job = await submit(world)
        async with asyncio.timeout(5):
            while not launcher.launched:
                world.reconciler.queue.put(job.id)
                await asyncio.sleep(0.005)
        await _until(lambda: find(job.id), lambda found: found.status == "pending")
    finally:
        await world.reconciler.stop()
    assert (len(launcher.launched), most) == (1, 1)


@pytest.mark.slow
async def test_a_look_at_all_jobs_leaves_those_alone_that_wait_for_their_launch(world):
    world.launcher.max_launches_per_second = 0.01
    jobs = [await submit(world) for _ in range(3)]
    read, find_job = [], world.store.jobs.find
    world.store.jobs.find = lambda job_id: read.append(job_id) or find_job(job_id)
    fresh = world.make_reconciler()
    fresh.resync_seconds = 1
    await fresh.start()
    try:
        await asyncio.sleep(1.5)
    finally:
        await fresh.stop()
    assert sorted(read.count(job.id) for job in jobs)[:2] == [1, 1]  # the third was launched


async def test_a_job_whose_key_was_removed_fails_with_the_reason_and_hides_no_other(world):
    lost, other = await submit(world, env={"A": "1"}), await submit(world)
    world.store.jobs._keyring = Keyring(["another key of thirty-two characters"])
    listed = (await world.jobs.list(ALICE, JobQuery(user="alice"))).jobs
    assert {job.id for job in listed} == {lost.id, other.id}
    assert await world.jobs.read_env(lost) == {}
    with pytest.raises(Conflict, match="environment can no longer be decrypted"):
        await world.jobs.rerun(ALICE, lost.id)
    lost = await step(world, lost)
    assert (lost.status, lost.reason) == ("failed", "EnvironmentLost")
    assert world.launcher.launched == []


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.QUEUED}))
async def test_a_user_reads_a_sentence_also_where_the_launcher_says_nothing(world, status):
    job = await submit(world)
    assert job.message.endswith(".")
    await step(world, job)
    see(world, job, status)
    job = await step(world, job)
    assert job.status == status
    assert job.reason.isalnum()
    assert job.message.endswith(".")


async def test_the_workers_bring_a_job_to_its_end_by_themselves_and_stop(world):
    world.launcher.seen = _AlwaysDone()
    await world.reconciler.start()
    job = await submit(world)
    try:
        await _until(lambda: world.store.jobs.find(job.id), lambda found: found.is_over)
    finally:
        await world.reconciler.stop()


class _AlwaysDone(dict):
    def get(self, key, default=None):
        return JobStatus(status=Status.SUCCEEDED, exit_code=0)


async def _until(read, is_true, *, seconds=5):
    async with asyncio.timeout(seconds):
        while not is_true(await read()):  # noqa: ASYNC110 - it is read from the database
            await asyncio.sleep(0.01)


async def test_a_job_past_the_deadline_that_its_launcher_leaves_to_us_is_ended_with_its_reason(world):
    job = await submit(world)
    await step(world, job)
    late = {"deadline_at": utcnow() + timedelta(seconds=60), "deadline_message": "It took too long."}
    see(world, job, Status.RUNNING, **late)
    assert (await step(world, job)).status == "running"
    see(world, job, Status.RUNNING, **late | {"deadline_at": utcnow() - timedelta(seconds=1)})
    await step(world, job)
    world.launcher.ends_slowly = True
    assert (await step(world, job)).reason == "Terminating"
    world.launcher.ends_slowly = False
    job = await step(world, job)
    assert (job.status, job.reason, job.message) == ("failed", "DeadlineExceeded", "It took too long.")


async def end_with_outputs(world, *tars):
    job = await submit(world)
    await step(world, job)
    world.launcher.outputs_of[job.id] = list(tars)
    see(world, job, Status.SUCCEEDED, exit_code=0)
    return await step(world, job)


async def test_a_job_is_cleaned_up_after_when_its_results_are_kept_and_not_before(world):
    job = await end_with_outputs(world, make_tar({"a": b"1"}))
    world.launcher.is_slow = True
    assert (await step(world, job)).cleaned_at is None
    world.launcher.is_slow = False
    job = await step(world, job)
    assert job.cleaned_at is not None
    assert (job.outputs.state, job.outputs.files) == ("kept", 1)


async def test_a_storage_that_fails_delays_the_cleaning_up_and_no_status(world):
    job = await end_with_outputs(world, make_tar({"a": bytes(500)}), make_tar({"a": bytes(500)}))
    write, world.outputs.storage.write = world.outputs.storage.write, _full
    with pytest.raises(Unavailable, match="full"):
        await step(world, job)
    world.outputs.storage.write = write
    job = await world.store.jobs.find(job.id)
    assert (job.status, job.cleaned_at, job.outputs) == ("succeeded", None, None)
    assert (await step(world, job)).outputs.files == 1


async def _full(key, chunks):
    async for _ in chunks:
        pass
    raise StorageFull("the storage is full")


async def test_a_deleted_job_takes_its_results_along(world):
    job = await step(world, await end_with_outputs(world, make_tar({"a": b"1"})))
    assert world.outputs.storage.objects
    await world.jobs.delete(ALICE, job.id)
    assert await step(world, job) is None
    assert world.outputs.storage.objects == {}


async def test_what_is_handed_over_has_a_url_for_results_that_is_good_until_the_end(world):
    world.links.url_for_jobs = "http://kbatch/"
    job = await submit(world)
    await step(world, job)
    [(_, launch)] = world.launcher.launched
    assert launch.outputs_url.startswith("http://kbatch/outputs/")
    assert "outputs/" not in repr(launch)
    signed = launch.outputs_url.rpartition("/")[2]
    assert (await world.links.get_sending_job(signed)).id == job.id
    see(world, job, Status.SUCCEEDED)
    await step(world, job)
    assert (await world.links.get_sending_job(signed)).id == job.id  # it comes when the command has ended
    await _until(lambda: step(world, job), lambda found: found.cleaned_at is not None)
    for url in (signed, "forged", launch.outputs_url):
        with pytest.raises(Forbidden):
            await world.links.get_sending_job(url)
