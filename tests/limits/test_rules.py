"""Limits, what is used and the order of turns: rules, values in and values out."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from kbatch_server.limits.fairshare import Accounting, get_next_month, split_months
from kbatch_server.limits.rules import (
    Bounds,
    choose_limits,
    format_ordinal,
    make_demand,
    make_wait,
    read_limits,
)
from kbatch_server.models.job import JobSpec
from kbatch_server.scheduling.queues import Queues
from kbatch_server.store.queues import Claim, Head
from kbatch_server.store.usage import Use

NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)
WEEK = 7 * 86400.0


def test_of_several_groups_the_most_generous_limit_holds_of_each_resource():
    default = read_limits({"running": 2, "queued": 10, "memory": "8G"})
    by_group = {
        "staff": read_limits({"running": 8, "queued": None}),
        "gpu": read_limits({"running": 4, "nvidia.com/gpu": 1}),
        "others": read_limits({"running": 100}),
    }
    assert choose_limits(default, by_group, ()) == {"running": 2, "queued": 10, "memory": 8 * 2**30}
    assert choose_limits(default, by_group, ("gpu", "staff", "none")) == {
        "running": 8,
        "memory": 8 * 2**30,
        "nvidia.com/gpu": 1,
    }
    # less than the default may be what a group is there for
    assert choose_limits(default, {"guests": {"running": 1.0}}, ["guests"])["running"] == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"jobs": 1}, "'jobs' cannot be limited"),
        ({"cpu": "4"}, "cpu must be a number"),
        ({"cpu": -1}, "at least 0"),
        ({"cpu": True}, "cpu must be a number"),
        ({"memory": "8 GB"}, "quantity"),
        ({1: 1}, "cannot be limited"),
        ([], "must be a dict"),
    ],
)
def test_limits_that_mean_nothing_are_refused(value, said):
    with pytest.raises(ValueError, match=said):
        read_limits(value)


def test_a_job_takes_its_limits_or_what_is_set_aside_for_it():
    spec = JobSpec(
        image="i",
        cpu_guarantee=0.5,
        mem_limit=2**30,
        mem_guarantee=2**20,
        extra_resource_limits={"nvidia.com/gpu": "2", "hugepages-2Mi": "1Gi"},
    )
    assert make_demand(spec) == {
        "running": 1,
        "cpu": 0.5,
        "memory": 2**30,
        "nvidia.com/gpu": 2,
        "hugepages-2Mi": 2**30,
    }


@pytest.mark.parametrize(
    ("owner", "limits", "used", "demand", "words"),
    [
        (
            "user",
            {"running": 4},
            {"running": 4},
            {},
            "You have 4 of 4 jobs running. This job is 2nd in your queue.",
        ),
        (
            "user",
            {"running": 1},
            {"running": 1},
            {},
            "You may run one job at a time. This job is 2nd in your queue.",
        ),
        (
            "user",
            {"cpu": 16},
            {"cpu": 14.5},
            {"cpu": 2},
            "Your jobs use 14.5 of 16 CPUs, and the next one requests 2.",
        ),
        (
            "user",
            {"memory": 2**36},
            {"memory": 2**35},
            {"memory": 2**36},
            "32 GiB of 64 GiB of memory, and the",
        ),
        (
            "user",
            {"nvidia.com/gpu": 1},
            {"nvidia.com/gpu": 1},
            {"nvidia.com/gpu": 1},
            "1 of 1 nvidia.com/gpu,",
        ),
        (
            "user",
            {"job_hours_per_month": 100},
            {"job_hours_per_month": 100.2},
            {},
            "used 100.2 of 100 job-hours",
        ),
        (
            "group:a",
            {"running": 9},
            {"running": 9},
            {},
            "The group 'a' has 9 of 9 jobs running.",
        ),
        ("total", {"running": 9}, {"running": 9}, {}, "All 9 job slots are in use. This job is 2nd"),
        (
            "total",
            {"cpu": 9},
            {"cpu": 9},
            {"cpu": 1},
            "All jobs share 9 CPUs, and not enough is left.",
        ),
    ],
)
def test_why_a_job_waits_is_a_sentence(owner, limits, used, demand, words):
    bounds = Bounds(owner, limits, used)
    demand = {"running": 1.0, **demand}
    short = bounds.find_short(demand)
    assert words in make_wait(bounds, short, demand).make_message(2)


def test_what_fits_exactly_fits():
    bounds = Bounds("user", {"cpu": 0.3}, {"cpu": 0.1 + 0.1})
    assert bounds.find_short({"cpu": 0.1}) is None
    assert bounds.find_short({"cpu": 0.11}) == "cpu"
    assert Bounds("user", {"cpu": 0}, {}).find_short({"running": 1}) is None


def test_ordinals():
    assert [format_ordinal(n) for n in (1, 2, 3, 4, 11, 12, 21, 113)] == (
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "21st", "113th"]
    )


# use


def test_use_loses_half_of_its_weight_in_each_half_life():
    accounting = Accounting(WEEK)
    hour = timedelta(hours=1)
    just = accounting.charge(2, start=NOW - hour, end=NOW, now=NOW)
    assert just == pytest.approx(2 * 3600, rel=0.01)
    later = accounting.charge(2, start=NOW - hour, end=NOW, now=NOW + timedelta(weeks=1))
    assert later == pytest.approx(just / 2)
    assert accounting.decay(just, WEEK) == pytest.approx(later)
    # what was used for ever counts no more than so much
    ever = accounting.charge(1, start=NOW - timedelta(days=3650), end=NOW, now=NOW)
    assert ever == pytest.approx(WEEK / 0.693147, rel=0.001)


def test_a_clock_that_was_set_back_charges_nothing_for_the_time_to_come():
    assert Accounting(WEEK).charge(1, start=NOW + timedelta(hours=1), end=NOW, now=NOW) == 0
    assert split_months(NOW, NOW - timedelta(hours=1)) == {}


def test_hours_belong_to_the_month_in_which_they_ran():
    start = datetime(2026, 12, 31, 23, tzinfo=UTC)
    assert split_months(start, start + timedelta(hours=3)) == {"2026-12": 3600, "2027-01": 7200}
    assert sum(split_months(start, start + timedelta(days=100)).values()) == 100 * 86400
    assert get_next_month(start) == datetime(2027, 1, 1, tzinfo=UTC)


# whose turn it is


class Hall:
    """Lines with jobs that a test puts there."""

    def __init__(self, *, total=None, limits=None, groups=None, uses=None, weights=None):
        self.queues = Queues(Accounting(WEEK, weights or {"running": 1.0}))
        self.queues.total_limits = total or {}
        self.queues.group_totals = groups or {}
        self.limits = limits or {}
        self.uses = uses or {}
        self.count = 0

    def add(self, user, *, demand=None, priority=0, groups=(), handed=False, whole=True):
        self.count += 1
        claim = Claim(
            f"{user}-{self.count}",
            user,
            self.count,
            -priority,
            {"running": 1.0, **(demand or {})},
            tuple(groups),
            handed,
        )
        queue = self.queues.get_queue(user)
        if queue.is_stale:
            self.queues.begin_reading(user)
            use = Use(self.uses.get(user, 0.0), NOW)
            self.queues.fill(user, Head([claim], whole, use), self.limits)
        else:
            queue.insert(claim)
        return claim.id

    def choose(self, most=1000, now=NOW):
        return self.queues.choose(now, most=most)

    def start(self, most=1000):
        return [claim.id for claim in self.choose(most).started]


def test_who_has_used_the_least_goes_first_and_free_places_are_shared_in_turn():
    hall = Hall(total={"running": 5}, uses={"alice": 100.0, "bob": 0.0, "carol": 1e6})
    for user in ("alice", "alice", "alice", "bob", "bob", "bob", "carol"):
        hall.add(user)
    # one that has just begun counts as one that ran for a minute: nobody takes all the places
    assert hall.start() == ["bob-4", "bob-5", "alice-1", "bob-6", "alice-2"]


def test_within_a_users_own_priority_decides_and_then_the_order_of_submits():
    hall = Hall()
    for priority in (0, 5, 0, -5, 5):
        hall.add("alice", priority=priority)
    assert hall.start() == ["alice-2", "alice-5", "alice-1", "alice-3", "alice-4"]


def test_a_high_priority_takes_no_turn_of_others():
    hall = Hall(total={"running": 2})
    hall.add("alice")
    hall.add("alice", priority=1000)
    hall.add("bob", priority=-1000)
    assert hall.start() == ["alice-2", "bob-3"]


def test_of_users_who_are_even_the_one_who_came_first_goes_first():
    hall = Hall(total={"running": 1})
    for user in ("zoe", "alice"):
        hall.add(user)
    assert hall.start() == ["zoe-1"]


def test_a_user_over_his_own_limit_waits_and_holds_up_nobody():
    hall = Hall(limits={"running": 1})
    for user in ("alice", "alice", "bob"):
        hall.add(user)
    decision = hall.choose()
    assert [claim.id for claim in decision.started] == ["alice-1", "bob-3"]
    assert decision.waits["alice"].reason == "QuotaExceeded"
    hall.queues.stop("alice-1")
    assert hall.start() == ["alice-2"]


def test_a_large_job_is_not_overtaken_for_ever_by_small_ones_that_need_the_same():
    hall = Hall(total={"cpu": 8, "running": 100}, uses={"bob": 1000.0})
    hall.add("carol", demand={"cpu": 4})
    assert hall.start() == ["carol-1"]
    hall.add("alice", demand={"cpu": 8})
    hall.add("bob", demand={"cpu": 1})
    hall.add("bob")  # takes no CPU at all, but is bob's second
    hall.add("dora")
    decision = hall.choose()
    assert [claim.id for claim in decision.started] == ["dora-5"]
    assert {user: wait.reason for user, wait in decision.waits.items()} == {
        "alice": "WaitingForTurn",
        "bob": "WaitingForTurn",
    }
    assert "Waiting for CPUs: users with lower recent usage go first." in decision.waits["bob"].why
    hall.queues.stop("carol-1")
    assert hall.start() == ["alice-2"]


def test_a_groups_total_is_shared_by_its_members_alone():
    hall = Hall(groups={"course": {"running": 2.0}})
    for user in ("alice", "bob", "carol"):
        hall.add(user, groups=("course", "all"))
    hall.add("dora", groups=("all",))
    decision = hall.choose()
    assert [claim.id for claim in decision.started] == ["alice-1", "bob-2", "dora-4"]
    assert decision.waits["carol"].make_message(1) == (
        "The group 'course' has 2 of 2 jobs running. This job is 1st in your queue."
    )


def test_what_is_handed_to_kueue_takes_nothing_of_the_total_but_counts_for_its_user():
    hall = Hall(total={"running": 1}, limits={"running": 2})
    for handed in (False, True, True):
        hall.add("alice", handed=handed)
    assert hall.start() == ["alice-1", "alice-2"]
    hall.queues.stop("alice-2")
    assert hall.start() == ["alice-3"]


def test_job_hours_of_this_month_count_with_what_runs_now():
    hall = Hall(limits={"job_hours_per_month": 2})
    began = NOW - timedelta(hours=1)
    hall.queues.start(Claim("old", "alice", 0, 0, {"running": 1}, started_at=began))
    hall.add("alice")
    assert hall.start() == ["alice-1"]
    hall.add("alice")
    decision = hall.choose(now=NOW + timedelta(hours=1))
    assert decision.waits["alice"].why == "Your jobs have used 2.0 of 2 job-hours this month."
    # the next month is another
    assert hall.choose(now=datetime(2026, 12, 1, 0, 1, tzinfo=UTC)).started


def test_limits_that_cannot_be_found_out_let_nothing_go():
    hall = Hall()
    hall.limits = None
    hall.add("alice")
    assert hall.choose().waits["alice"].reason == "LimitsUnknown"


def test_a_line_that_is_not_known_to_its_end_is_read_before_others_go_on():
    hall = Hall(total={"running": 2})
    hall.add("alice", whole=False)
    hall.add("bob")
    decision = hall.choose()
    assert [claim.id for claim in decision.started] == ["alice-1"]
    assert decision.unread == "alice"


def test_a_long_line_is_not_kept_whole_and_loses_nothing():
    hall = Hall(total={"running": 1})
    for _ in range(1000):
        hall.add("alice")
    urgent = hall.add("alice", priority=1)
    queue = hall.queues.get_queue("alice")
    assert len(queue.claims) <= 200
    assert not queue.is_whole
    assert hall.start() == [urgent]
    assert [claim.id for claim in queue.claims[:2]] == ["alice-1", "alice-2"]


def test_no_more_are_let_go_than_are_launched_at_once():
    hall = Hall()
    for _ in range(5):
        hall.add("alice")
    decision = hall.choose(most=2)
    assert len(decision.started) == 2
    assert decision.is_full


def test_a_job_that_comes_in_while_its_line_is_read_is_not_lost():
    queues = Queues(Accounting(WEEK))
    queue = queues.get_queue("alice")
    queues.begin_reading("alice")
    new = Claim("new", "alice", 2, 0, {"running": 1})
    queue.insert(new)
    queues.fill("alice", Head([], True, Use()), {})
    assert queues.choose(NOW, most=9).started == [new]


def test_nothing_is_left_of_what_has_run():
    hall = Hall(groups={"g": {"running": 9.0}}, total={"cpu": 9})
    for _ in range(3):
        hall.add("alice", groups=("g", "g"), demand={"cpu": 0.1})
    for job_id in hall.start():
        assert hall.queues.stop(job_id).id == job_id
        assert hall.queues.stop(job_id) is None
    assert not hall.queues.running
    assert not hall.queues._sums
    assert not hall.queues._of_user
    assert not hall.queues._of_group


def test_over_a_long_time_users_get_equal_parts_whatever_they_submit():
    """One submits all at once, two others as they need: by time, not by number."""
    hall = Hall(total={"running": 4}, uses={})
    accounting, now = hall.queues.accounting, NOW
    seconds = {"greedy": 600, "few": 60, "other": 300}
    ran, uses, ends = Counter(), dict.fromkeys(seconds, 0.0), []
    for user in seconds:
        for _ in range(150 if user == "greedy" else 50):
            hall.add(user)
    while now < NOW + timedelta(hours=8):
        for claim in hall.choose(now=now).started:
            hall.queues.start(claim)
            hall.queues._of_user[claim.user][claim.id] = hall.queues.running[claim.id] = Claim(
                claim.id, claim.user, claim.seq, 0, claim.demand, started_at=now
            )
            ends.append((now + timedelta(seconds=seconds[claim.user]), now, claim))
        ends.sort(key=lambda each: each[0])
        now, began, claim = ends.pop(0)
        hall.queues.stop(claim.id)
        user = claim.user
        ran[user] += seconds[user]
        uses[user] += accounting.charge(1, start=began, end=now, now=now)
        for name, queue in hall.queues.by_user.items():
            queue.use = Use(uses[name], now)
        while user != "greedy" and len(hall.queues.get_queue(user).claims) < 10:
            hall.queues.get_queue(user).is_stale = False
            hall.queues.get_queue(user).is_whole = True
            hall.queues.get_queue(user).limits = {}
            hall.add(user)
    least, most = min(ran.values()), max(ran.values())
    assert most < 1.1 * least, ran
