"""The tokens of the hub that jobs request: made at the launch, on record before use, revoked at the end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from traitlets import Instance, Integer, Unicode
from traitlets.config import LoggingConfigurable

from ..errors import Unavailable
from ..failpoints import reach
from ..hub.api import HubApi, HubDown, HubRejected, HubToken
from ..launchers.base import LauncherUnavailable, LaunchRefused
from ..models.job import Job
from ..models.times import utcnow
from ..store.jobs import JobStore
from ..web.auth import get_service_name

UNKNOWN = "?"
"""The id of a token on record while one may exist whose id is not known: between two lines of a launch."""

REVOKED = ""
"""The id on record after the token was revoked."""

SWEEP_RETRY_SECONDS = 60.0
"""Seconds until the sweep tries again if the hub or the database does not respond."""

SWEEP_PAUSE_SECONDS = 0.05
"""Seconds between two users of the sweep, which is in no hurry."""

MAX_SWEPT_USERS = 100_000

BROAD_SCOPES = frozenset(
    {
        "access:servers",
        "admin:auth_state",
        "admin:groups",
        "admin:servers",
        "admin:users",
        "groups",
        "inherit",
        "servers",
        "tokens",
        "users",
    }
)
"""Scopes that the service never needs for all users, and with which it could act as any of them."""

_MAXIMUM = re.compile(r"must not exceed (\d{1,12})")


class HubTokens(LoggingConfigurable):
    """Gives jobs that request ``hub_scopes`` a token of their user with these scopes, as long as they run.

    The record of a job says at any time whether a token may exist: ``hub_token`` is UNKNOWN before the hub is
    asked, then the token's id, and REVOKED after the end. So a kill at any line leaves no token that is not
    found again: by its id, or by its note, which names the service and the job. The record also has the
    token, encrypted, for a launch that is repeated.
    """

    max_token_seconds = Integer(
        7 * 86400,
        min=60,
        help="""The maximum lifetime, in seconds, of a job's token of the hub (``hub_scopes``).

        A token expires earlier if the job must have ended earlier, and is revoked when the job ends. The
        service does not renew tokens: a job that waits and runs for longer loses its token. If
        ``JupyterHub.token_expires_in_max_seconds`` is less, that applies.
        """,
        config=True,
    )

    api_url_for_jobs = Unicode(
        "",
        help="""The URL of the hub's API for jobs with ``hub_scopes``, in their ``JUPYTERHUB_API_URL``.
        Default: the URL that the service itself uses.
        """,
        config=True,
    )

    service_prefix = Unicode("/")
    hub = Instance(HubApi)
    jobs = Instance(JobStore)

    _tasks: tuple[asyncio.Task[None], ...] = ()

    # For the launch and the end of a job

    async def make_environment(self, job: Job) -> dict[str, str]:
        """Return the variables with the token of the hub of a job; none unless it requests scopes.

        A launch that is repeated returns the token of the first one, as the job may already run with it.
        Raises LaunchRefused if the hub gives no such token, LauncherUnavailable if it does not respond.
        """
        if not job.spec.hub_scopes:
            return {}
        job = await self.jobs.find(job.id) or job  # as another leader may have left it
        token = await self.jobs.read_hub_token(job.id) if job.hub_token else None
        if token is None:
            with _launch_errors():
                token = await self._renew_token(job)
        url = self.api_url_for_jobs or self.hub.hub_auth.api_url
        return {"JUPYTERHUB_API_TOKEN": token, "JUPYTERHUB_API_URL": url}

    async def _renew_token(self, job: Job) -> str:
        """Make a token that is on record before it is used, and revoke one that nobody knows any more."""
        if job.hub_token:
            await self._revoke(job)
        await self.jobs.record_hub_token(job.id, UNKNOWN)
        reach("token.1")
        try:
            token_id, token = await self._make_token(job)
        except HubRejected as error:
            # the hub said no, so none exists: nothing is left to revoke
            await self.jobs.record_hub_token(job.id, REVOKED)
            self.log.warning("job %s: the hub made no token: %s", job.id, error)
            raise
        reach("token.2")
        await self.jobs.record_hub_token(job.id, token_id, token=token)
        reach("token.3")
        return token

    async def _make_token(self, job: Job) -> tuple[str, str]:
        scopes, longest = job.spec.hub_scopes, job.spec.get_longest_seconds()
        seconds = self.max_token_seconds if longest is None else min(longest, self.max_token_seconds)
        note = self._make_note(job.id)
        try:
            return await self.hub.make_token(job.user, scopes=scopes, expires_in=seconds, note=note)
        except HubRejected as error:
            maximum = _MAXIMUM.search(error.message)
            if error.status != 400 or maximum is None or not 0 < int(maximum[1]) < seconds:
                raise
        # the hub's own maximum, which it tells only so; once
        return await self.hub.make_token(job.user, scopes=scopes, expires_in=int(maximum[1]), note=note)

    async def revoke(self, job: Job) -> bool:
        """Revoke the token of an ended job; return whether none is left. Repeating this is harmless.

        False means: try again later. A token that the hub does not let the service revoke is left to expire.
        """
        if not job.hub_token:
            return True
        try:
            await self._revoke(job)
        except HubDown as error:
            self.log.warning("job %s: its hub token is not revoked yet: %s", job.id, error)
            return False
        except HubRejected as error:
            expires = (job.ended_at or utcnow()) + timedelta(seconds=self.max_token_seconds)
            self.log.error(
                "job %s: the hub does not let the service revoke token %s of %s, which expires by %s: %s",
                *(job.id, job.hub_token, job.user, f"{expires:%Y-%m-%d %H:%M} UTC", error),
            )
            if utcnow() < expires:
                return False
        await self.jobs.record_hub_token(job.id, REVOKED)
        return True

    async def _revoke(self, job: Job) -> None:
        try:
            if job.hub_token != UNKNOWN:
                await self.hub.delete_token(job.user, str(job.hub_token))
                return
            note = self._make_note(job.id)
            for token in await self.hub.list_tokens(job.user):
                if token.note == note:
                    await self.hub.delete_token(job.user, token.id)
        except HubRejected as error:
            if error.status != 404:  # the user does not exist any more, and so no token
                raise

    def _make_note(self, job_id: str) -> str:
        """Return the note by which the hub shows the user what a token is for."""
        return f"{get_service_name(self.service_prefix) or 'kbatch'} job {job_id}"

    # For the leader

    async def start(self) -> None:
        """Begin to look at the service's own scopes, and for tokens that nobody needs any more."""
        self._tasks = (
            asyncio.create_task(self._repeat(self.warn_of_scopes), name="hub-scopes"),
            asyncio.create_task(self._repeat(self.sweep), name="hub-token-sweep"),
        )

    async def stop(self) -> None:
        """Stop both wherever they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step once, however often it must be tried."""
        while True:
            try:
                await step()
                return
            except (HubDown, HubRejected, Unavailable) as error:
                self.log.debug("%s; trying again", error)
            except Exception:
                self.log.exception("looking after the tokens of jobs failed; trying again")
            await asyncio.sleep(SWEEP_RETRY_SECONDS)

    async def warn_of_scopes(self) -> None:
        """Log a warning if the service has scopes at the hub with which it could act as any user."""
        for scope in sorted(BROAD_SCOPES.intersection(await self.hub.list_own_scopes())):
            self.log.warning(
                "This service has the hub scope %r for all users: whoever controls the service controls the"
                " hub. Remove it from the service's roles%s.",
                scope,
                ", and use tokens!group=NAME, a group without admins" if scope == "tokens" else "",
            )

    async def sweep(self) -> None:
        """Revoke the tokens of jobs that have ended, and those that are not on record."""
        begin = self._make_note("")
        for user in await self.jobs.list_token_users(limit=MAX_SWEPT_USERS):
            try:
                tokens = await self.hub.list_tokens(user)
                for token in tokens:
                    if token.note.startswith(begin) and not await self._is_needed(token, begin):
                        await self.hub.delete_token(user, token.id)
                        self.log.info("revoked hub token %s (%s) of %s", token.id, token.note, user)
            except HubRejected as error:
                # deleted, or not in the group any more
                self.log.debug("cannot look for tokens of %s: %s", user, error)
            await asyncio.sleep(SWEEP_PAUSE_SECONDS)

    async def _is_needed(self, token: HubToken, begin: str) -> bool:
        job = await self.jobs.find(token.note.removeprefix(begin))
        return job is not None and not job.is_over and job.hub_token in (UNKNOWN, token.id)


@contextmanager
def _launch_errors() -> Iterator[None]:
    """Turn the errors of the hub into those of a launch."""
    try:
        yield
    except HubDown as error:
        raise LauncherUnavailable(f"{error}, so the job cannot get its hub token") from error
    except HubRejected as error:
        raise LaunchRefused("HubTokenRefused", _explain(error)) from error


def _explain(error: HubRejected) -> str:
    if error.status in (403, 404):
        return (
            "JupyterHub does not let this service make a token for you (403), so the job's hub_scopes are not"
            " available. Ask an admin of the hub, which must be JupyterHub 6, to give the service the scope"
            " tokens!group=NAME, and to add you to that group."
        )
    return f"JupyterHub made no token with the job's hub_scopes: {error.message}"
