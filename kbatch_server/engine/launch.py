"""Puts together what a job needs at its start: its environment, and the URLs for its code and its results."""

from __future__ import annotations

from dataclasses import replace

from traitlets import Instance
from traitlets.config import LoggingConfigurable

from ..hub.servers import HubServers
from ..jobs.tokens import JobTokens
from ..launchers.base import Launch, LaunchRefused
from ..models.job import Job, JobSpec
from ..models.results import OutputLimits
from ..models.server import HubServer, parse_reference
from ..models.user import User
from ..profiles.profiles import Profiles, make_user_options
from ..profiles.spawner import make_spawner
from ..storage.base import Storage
from ..store.jobs import JobStore
from ..store.secrets import SecretStore
from ..store.uploads import UploadStore
from .hubtokens import HubTokens
from .links import SignedLinks
from .secrets import read_secrets

DEFAULT_ENVIRONMENT = {
    # without a terminal, programs buffer some kilobytes of output, which are lost when they are killed; this
    # variable turns that off for Python
    "PYTHONUNBUFFERED": "1",
    # the page of a job shows colours and links, for programs that are told to use them (FORCE_COLOR)
    "TERM": "xterm-256color",
    "COLUMNS": "120",
}
"""The environment variables of each job, unless the admin or the user sets them."""


class LaunchBuilder(LoggingConfigurable):
    """Makes the Launch of a job from its record, the admin's settings and the user's request."""

    hub_tokens = Instance(HubTokens)
    links = Instance(SignedLinks)
    tokens = Instance(JobTokens)
    output_limits = Instance(OutputLimits, (), help="""How much of a job's files the job sends as results.""")
    profiles = Instance(Profiles)
    servers = Instance(HubServers, ())
    storage = Instance(Storage)
    jobs = Instance(JobStore)
    secrets = Instance(SecretStore)
    uploads = Instance(UploadStore)

    async def make_launch(self, job: Job) -> Launch:
        """Return the Launch of a job, for the launcher.

        Raises StorageError if the storage does not respond, LaunchRefused if the environment or a secret is
        lost or the hub gives no token, LauncherUnavailable or Unavailable if the hub does not respond.
        """
        own = await self.jobs.read_env(job.id) if job.has_env else {}
        if own is None:
            message = "The job's environment was encrypted with a key that the service no longer has."
            raise LaunchRefused("EnvironmentLost", message)
        user = User(name=job.user, groups=tuple(job.groups))
        secrets = await read_secrets(self.secrets, job)
        own |= secrets.env
        # what the admin takes from elsewhere, the launcher adds
        taken = {each["name"] for each in job.spec.env_sources}
        common = DEFAULT_ENVIRONMENT | _make_size_variables(job.spec)
        defaults = {name: value for name, value in common.items() if name not in taken}
        environment = defaults | await self.profiles.get_environment(user, job.spec) | own
        environment |= {"JUPYTERHUB_USER": job.user, "KBATCH_JOB_ID": job.id, "KBATCH_JOB_NAME": job.name}
        # as KubeSpawner's servers and the first kbatch server's jobs have it: programs submit others with it
        environment |= {"JUPYTER_IMAGE": job.spec.image, "JUPYTER_IMAGE_SPEC": job.spec.image}
        environment |= {"KBATCH_JOB_TOKEN": self.tokens.make(job)} | await self.hub_tokens.make_environment(
            job
        )
        launch = Launch(
            env={"KBATCH_URL": self.links.url_for_jobs} | environment,
            secret_files=secrets.files,
            registries=secrets.registries,
            outputs_url=self.links.make_outputs_url(job) if job.spec.keep_outputs else None,
            output_limits=self.output_limits,
            spawner=make_spawner(
                user, make_user_options(job.spec.profile, job.spec.profile_options), job_id=job.id
            ),
            server=await self._find_server(job),
        )
        if job.spec.upload is None:
            return launch
        upload = await self.uploads.get(job.spec.upload, user=job.user)
        seconds = self.links.code_url_expires_in_seconds
        url = await self.storage.make_url(upload.key, expires_in_seconds=seconds)
        if url is None:
            url = self.links.make_code_url(job, upload)
        return replace(launch, code_url=url, code_key=upload.key, code_sha256=upload.code_sha256)

    async def _find_server(self, job: Job) -> HubServer | None:
        """Return what the hub says of the server whose home the job mounts; None if it is not to be asked."""
        if job.spec.home is None or not self.servers.is_available:
            return None
        return await self.servers.find(job.user, parse_reference(job.spec.home))


def _make_size_variables(spec: JobSpec) -> dict[str, str]:
    """Return the variables with a job's size, as JupyterHub gives them to a server: CPUs and bytes."""
    sizes = {
        "CPU_GUARANTEE": spec.cpu_guarantee,
        "CPU_LIMIT": spec.cpu_limit,
        "MEM_GUARANTEE": spec.mem_guarantee,
        "MEM_LIMIT": spec.mem_limit,
    }
    return {name: str(size) for name, size in sizes.items() if size}
