"""The links that jobs are given, to fetch their code and to send their results, and what each is good for."""

from __future__ import annotations

from typing import Any

from traitlets import Instance, Integer, Unicode, validate
from traitlets.config import LoggingConfigurable

from ..errors import Forbidden, NotFound
from ..keyring import Keyring
from ..models.job import Job
from ..models.upload import Upload
from ..store import Store


class SignedLinks(LoggingConfigurable):
    """Signs the links of jobs, and knows them again: each is for one job, and ends with it."""

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
    store = Instance(Store)

    def make_code_url(self, job: Job, upload: Upload) -> str:
        """Return the URL where a job fetches its code from this service."""
        signed = self.keyring.sign({"job": job.id, "upload": upload.id}, purpose="code")
        return f"{self.url_for_jobs}code/{signed}"

    def make_outputs_url(self, job: Job) -> str:
        """Return the URL that a job's results are sent to."""
        return f"{self.url_for_jobs}outputs/{self.keyring.sign({'job': job.id}, purpose='outputs')}"

    async def get_sending_job(self, signed: str) -> Job:
        """Return the job that a results' URL is for, or raise Forbidden: it is forged, expired, or of a job
        that is cleaned up after."""
        max_age_seconds = self.outputs_url_expires_in_seconds
        said = self.keyring.verify(signed, purpose="outputs", max_age_seconds=max_age_seconds)
        if said is not None:
            job = await self.store.jobs.find(said["job"])
            if job is not None and job.cleaned_at is None and job.delete_requested_at is None:
                return job
        raise Forbidden("This link is invalid or has expired.", reason="BadLink")

    async def get_code(self, signed: str) -> Upload:
        """Return the upload that a code URL is for, or raise Forbidden: it is forged, expired, or of a job
        that is over."""
        said = self.keyring.verify(signed, purpose="code", max_age_seconds=self.code_url_expires_in_seconds)
        if said is not None:
            job = await self.store.jobs.find(said["job"])
            if job is not None and not job.is_over:
                try:
                    return await self.store.uploads.get(said["upload"], user=job.user)
                except NotFound:
                    self.log.warning("job %s: its code no longer exists", job.id)
        raise Forbidden("This link is invalid or has expired.", reason="BadLink")
