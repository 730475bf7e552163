"""The token of this service that each job has, for itself alone."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict

from traitlets import Instance, Integer, Unicode
from traitlets.config import LoggingConfigurable

from ..errors import NotAuthenticated
from ..keyring import Keyring
from ..models.job import Job
from ..models.user import JOB, JOB_TOKEN_PREFIX, User
from ..store.jobs import JobStore

ACTIONS = ("submit", "read")
"""What a job may do, each only where a method admits jobs (``Needs.admits_jobs``)."""

MAX_TOKEN_LENGTH = 1000

FOREVER_SECONDS = 2**31
"""An age that no signature has: the end of a token is in what is signed."""

REMEMBERED_SECONDS = 1.0
"""Seconds for which the answer about a valid token is kept, so that a flood of requests reads no records. A
token may work for so long after the end of its job."""

MAX_REMEMBERED = 10_000


class JobTokens(LoggingConfigurable):
    """Makes and checks the tokens of jobs. The hub does not know them.

    A token is signed, so a made-up one costs no read of the record. It works from the launch of its job until
    the job ends, is cancelled or deleted.
    """

    lifetime_seconds = Integer(
        90 * 86400,
        min=60,
        help="""The maximum number of seconds, from a job's launch, for which the job's own token works.

        It must cover the time that the job waits and runs. A token stops working earlier if the job ends
        earlier, and after the longest time that the job may wait and run, if that has a limit.
        """,
        config=True,
    )

    audience = Unicode(help="The prefix of this service, like ``/services/kbatch/``.")
    keyring = Instance(Keyring)
    jobs = Instance(JobStore)

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._remembered: OrderedDict[bytes, tuple[float, User]] = OrderedDict()

    def make(self, job: Job) -> str:
        """Return the token of a job that is about to be launched."""
        longest = job.spec.get_longest_seconds()
        lifetime = self.lifetime_seconds if longest is None else min(longest, self.lifetime_seconds)
        said = {"job": job.id, "until": int(time.time() + lifetime), "for": self.audience}
        return JOB_TOKEN_PREFIX + self.keyring.sign(said, purpose="job-token")

    async def find_user(self, token: str) -> User:
        """Return the user of a job's token: the job's owner, with the groups of the record and few rights.

        Raises NotAuthenticated if the token is invalid or has expired, or the job has ended or is deleted;
        Unavailable if the database does not respond.
        """
        key = hashlib.sha256(token[:MAX_TOKEN_LENGTH].encode("utf-8", "replace")).digest()
        until, user = self._remembered.get(key, (0.0, None))
        if user is not None and time.monotonic() < until:
            return user
        self._remembered.pop(key, None)
        user = _make_user(await self._find_job(token))
        self._remembered[key] = (time.monotonic() + REMEMBERED_SECONDS, user)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return user

    async def _find_job(self, token: str) -> Job:
        said = None
        if len(token) <= MAX_TOKEN_LENGTH:
            signed = token.removeprefix(JOB_TOKEN_PREFIX)
            said = self.keyring.verify(signed, purpose="job-token", max_age_seconds=FOREVER_SECONDS)
        if said is None or said["for"] != self.audience or said["until"] < time.time():
            raise NotAuthenticated("This token of a job is invalid or has expired.")
        job = await self.jobs.find(said["job"])
        if job is None or job.is_over or job.cancel_requested_at or job.delete_requested_at:
            raise NotAuthenticated("The job of this token has ended, and the token with it.")
        return job


def _make_user(job: Job) -> User:
    return User(name=job.user, groups=tuple(job.groups), kind=JOB, actions=ACTIONS, job=job.id)
