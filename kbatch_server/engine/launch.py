"""Puts together what a job needs at its start: its environment, a way to its code and one for its results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from traitlets import Instance, Integer, Unicode, validate
from traitlets.config import LoggingConfigurable

from ..errors import Forbidden, NotFound
from ..jobs.profiles import Profiles
from ..keyring import Keyring
from ..launchers.base import Launch, LaunchRefused
from ..models.job import Job
from ..models.results import OutputLimits
from ..models.upload import Upload
from ..models.user import User
from ..storage.base import Storage
from ..store import JobStore

DEFAULT_ENVIRONMENT = {
    # a program whose output is no terminal keeps back some kilobytes of it, which are lost when it is killed;
    # of those that do, Python's can be told not to by a variable
    "PYTHONUNBUFFERED": "1",
    # what the page of a job shows: colours and links for programs that are told to use them (FORCE_COLOR)
    "TERM": "xterm-256color",
    "COLUMNS": "120",
}
"""What each job's environment has unless the administrator or the user sets it."""


class Launchpad(LoggingConfigurable):
    """Makes the Launch of a job, and knows the code URLs that it signed again."""

    url_for_jobs = Unicode(
        "",
        help="""The URL of this service, with its prefix, as a job's pod reaches it.

        Like ``http://kbatch-server.jupyter.svc:8050/services/kbatch/``. Jobs fetch their code from here
        unless the storage signs URLs of its own. Default: the address that the service listens at.
        """,
        config=True,
    )

    @validate("url_for_jobs")
    def _validate_url(self, proposal: Any) -> str:
        url: str = proposal["value"]
        return url if not url or url.endswith("/") else url + "/"

    code_url_expires_in_seconds = Integer(
        7 * 86400,
        min=60,
        help="""Seconds for which the URL that a job fetches its code from is good, from the job's launch.

        It must cover the time that a job may wait for a node, and that until its last retry starts. A URL
        of the service's own is good for nothing as soon as its job is over.
        """,
        config=True,
    )

    outputs_url_expires_in_seconds = Integer(
        90 * 86400,
        min=60,
        help="""Seconds for which the URL that a job's results are sent to is good, from the job's launch.

        It must cover the time that a job may wait and run. It is good for nothing as soon as its job is over
        and cleaned up after.
        """,
        config=True,
    )

    keyring = Instance(Keyring)
    output_limits = Instance(OutputLimits, (), help="How much of what a job wrote is sent.")
    profiles = Instance(Profiles)
    storage = Instance(Storage)
    store = Instance(JobStore)

    async def make_launch(self, job: Job) -> Launch:
        """Return what the launcher hands to the job.

        Raises StorageError when the storage does not answer, LaunchRefused when the environment is lost.
        """
        own = await self.store.read_env(job.id) if job.has_env else {}
        if own is None:
            message = "Its environment was sealed with a key that this service does not have any more."
            raise LaunchRefused("EnvironmentLost", message)
        user = User(name=job.user, groups=tuple(job.groups))
        environment = DEFAULT_ENVIRONMENT | await self.profiles.get_environment(user, job.spec.profile) | own
        environment |= {"JUPYTERHUB_USER": job.user, "KBATCH_JOB_ID": job.id, "KBATCH_JOB_NAME": job.name}
        launch = Launch(
            env=environment,
            outputs_url=self._make_outputs_url(job) if job.spec.keep_outputs else None,
            output_limits=self.output_limits,
        )
        if job.spec.upload is None:
            return launch
        upload = await self.store.get_upload(job.spec.upload, user=job.user)
        url = await self.storage.make_url(upload.key, expires_in_seconds=self.code_url_expires_in_seconds)
        if url is None:
            signed = self.keyring.sign({"job": job.id, "upload": upload.id}, purpose="code")
            url = f"{self.url_for_jobs}code/{signed}"
        return replace(launch, code_url=url, code_key=upload.key)

    def _make_outputs_url(self, job: Job) -> str:
        return f"{self.url_for_jobs}outputs/{self.keyring.sign({'job': job.id}, purpose='outputs')}"

    async def get_sending_job(self, signed: str) -> Job:
        """Return the job that a results' URL is for, or raise Forbidden: it is forged, expired, or of a job
        that is cleaned up after."""
        max_age_seconds = self.outputs_url_expires_in_seconds
        said = self.keyring.verify(signed, purpose="outputs", max_age_seconds=max_age_seconds)
        if said is not None:
            job = await self.store.find_job(said["job"])
            if job is not None and job.cleaned_at is None and job.delete_requested_at is None:
                return job
        raise Forbidden("This link has expired or was never good.", reason="BadLink")

    async def get_code(self, signed: str) -> Upload:
        """Return the upload that a code URL is for, or raise Forbidden: it is forged, expired, or of a job
        that is over."""
        said = self.keyring.verify(signed, purpose="code", max_age_seconds=self.code_url_expires_in_seconds)
        if said is not None:
            job = await self.store.find_job(said["job"])
            if job is not None and not job.is_over:
                try:
                    return await self.store.get_upload(said["upload"], user=job.user)
                except NotFound:
                    self.log.warning("job %s: its code is gone", job.id)
        raise Forbidden("This link has expired or was never good.", reason="BadLink")
