"""What KubeJobLauncher does where no cluster is needed: its settings, and the words for what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from traitlets import TraitError

from kbatch_server.launchers.base import LauncherUnavailable, LaunchRefused
from kbatch_server.launchers.kube.client import KubeRefused, KubeUnavailable, measure_ahead
from kbatch_server.launchers.kube.errors import launch_errors
from kbatch_server.launchers.kube.launcher import KubeJobLauncher


def test_namespace_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAMESPACE", "hub")
    assert KubeJobLauncher().namespace == "hub"
    monkeypatch.delenv("POD_NAMESPACE")
    assert KubeJobLauncher().namespace == "default"


def test_instance_that_is_refused() -> None:
    with pytest.raises(TraitError, match=r"KubeJobLauncher\.instance must"):
        KubeJobLauncher(instance="my hub")


async def test_no_kubernetes_is_said_in_one_line(tmp_path: Path) -> None:
    launcher = KubeJobLauncher(kubeconfig=str(tmp_path / "none"))
    with pytest.raises(TraitError, match=r"KubeJobLauncher\.kubeconfig must name") as error:
        await launcher.open()
    assert "\n" not in str(error.value)
    await launcher.close()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KubeUnavailable("503"), "Kubernetes does not respond: 503"),
        (
            KubeRefused(
                403,
                "Forbidden",
                'jobs.batch "x" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, '
                "used: count/jobs.batch=5, limited: count/jobs.batch=5",
            ),
            'The ResourceQuota "q" leaves no room: the job requests 1 count/jobs.batch of at most '
            "5 count/jobs.batch (in use: 5 count/jobs.batch).",
        ),
        (
            KubeRefused(403, "Forbidden", 'jobs.batch is forbidden: User "u" cannot create resource "jobs"'),
            "Kubernetes denied the request (403): jobs.batch is forbidden: ",
        ),
        (
            KubeRefused(404, "NotFound", 'jobs.batch "x" not found'),
            "The job's objects were deleted in the meantime",
        ),
    ],
)
def test_what_may_be_well_in_a_while(error: Exception, words: str) -> None:
    with pytest.raises(LauncherUnavailable) as raised, launch_errors():
        raise error
    assert str(raised.value).startswith(words)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KubeRefused(404, "NotFound", 'namespaces "x" not found'), "NamespaceNotFound"),
        (KubeRefused(422, "Invalid", "spec.template: bad"), "Invalid"),
        (KubeRefused(400, "BadRequest", 'admission webhook "w" denied the request'), "BadRequest"),
        (KubeRefused(409, "AlreadyExists", "exists and was not created by this service"), "AlreadyExists"),
    ],
)
def test_what_never_will(error: Exception, reason: str) -> None:
    with pytest.raises(LaunchRefused) as raised, launch_errors():
        raise error
    assert raised.value.reason == reason


def test_how_far_our_clock_is_ahead_is_read_from_an_answers_date() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert measure_ahead("Thu, 01 Jan 2026 10:00:00 GMT", now) == timedelta(hours=2)
    assert measure_ahead("Thu, 01 Jan 2026 14:00:00 GMT", now) == timedelta(hours=-2)
    for same in ("Thu, 01 Jan 2026 11:59:58 GMT", None, "yesterday", "Thu, 01 Jan 2026 10:00:00 -0000"):
        assert measure_ahead(same, now) == timedelta()
