"""The signed URLs with which jobs fetch their code and send their results."""

from __future__ import annotations

from typing import Any

from traitlets import Instance, Integer, Unicode, validate
from traitlets.config import LoggingConfigurable

from ..errors import Forbidden, NotFound
from ..keyring import Keyring
from ..models.job import Job
from ..models.upload import Upload
from ..store.jobs import JobStore
from ..store.uploads import UploadStore


class SignedLinks(LoggingConfigurable):
    """Makes and verifies the signed URLs of jobs. Each URL is for one job, and expires with it."""

    url_for_jobs = Unicode(
        "",
        help="""The URL, with prefix, at which jobs' pods reach this service.

        For example ``http://kbatch-server.jupyter.svc:8050/services/kbatch/``. Jobs fetch their code from it,
        unless the storage signs its own URLs, and send their results to it. Default: the address that the
        service listens on.
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
        help="""Seconds, from a job's launch, for which the job can fetch its code with its URL.

        It must cover the time that the job waits for a node, and the time until its last attempt starts. A
        URL of this service (not of the storage) stops working as soon as the job has ended.
        """,
        config=True,
    )

    outputs_url_expires_in_seconds = Integer(
        90 * 86400,
        min=60,
        help="""Seconds, from a job's launch, for which the job can send its results to its URL.

        It must cover the time that the job waits and runs. The URL stops working as soon as the service has
        cleaned up after the job.
        """,
        config=True,
    )

    keyring = Instance(Keyring)
    jobs = Instance(JobStore)
    uploads = Instance(UploadStore)

    def make_code_url(self, job: Job, upload: Upload) -> str:
        """Return the URL from which a job fetches its code from this service."""
        signed = self.keyring.sign({"job": job.id, "upload": upload.id}, purpose="code")
        return f"{self.url_for_jobs}code/{signed}"

    def make_outputs_url(self, job: Job) -> str:
        """Return the URL to which a job sends its results."""
        return f"{self.url_for_jobs}outputs/{self.keyring.sign({'job': job.id}, purpose='outputs')}"

    async def get_sending_job(self, signed: str) -> Job:
        """Return the job of a results URL.

        Raises Forbidden if the URL is invalid or has expired, or the job was cleaned up or deleted.
        """
        max_age_seconds = self.outputs_url_expires_in_seconds
        said = self.keyring.verify(signed, purpose="outputs", max_age_seconds=max_age_seconds)
        if said is not None:
            job = await self.jobs.find(said["job"])
            if job is not None and job.cleaned_at is None and job.delete_requested_at is None:
                return job
        raise Forbidden("This link is invalid or has expired.", reason="BadLink")

    async def get_code(self, signed: str) -> Upload:
        """Return the upload of a code URL.

        Raises Forbidden if the URL is invalid or has expired, or the job has ended.
        """
        said = self.keyring.verify(signed, purpose="code", max_age_seconds=self.code_url_expires_in_seconds)
        if said is not None:
            job = await self.jobs.find(said["job"])
            if job is not None and not job.is_over:
                try:
                    return await self.uploads.get(said["upload"], user=job.user)
                except NotFound:
                    self.log.warning("job %s: its code no longer exists", job.id)
        raise Forbidden("This link is invalid or has expired.", reason="BadLink")
