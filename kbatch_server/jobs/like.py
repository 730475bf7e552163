"""Makes the request of a job that is like a server of its user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from traitlets import Instance
from traitlets.config import LoggingConfigurable

from ..errors import InvalidRequest, Unavailable
from ..hub.servers import HubServers
from ..launchers.base import JobLauncher, LauncherUnavailable
from ..models.job import JobSpec
from ..models.request import JobRequest
from ..models.server import HubServer, ServerPod, describe_server, parse_reference
from ..models.user import User
from ..profiles.profiles import Profiles


@dataclass(frozen=True)
class Taken:
    """What a job has from a server, apart from the fields of its request."""

    sentence: str
    image: str | None = None
    """The server's image by its digest, in place of the image that the request names."""

    def apply(self, spec: JobSpec) -> JobSpec:
        """Return the spec, which was checked with the image's name, with its digest and the sentence."""
        pinned = {} if self.image is None else {"image": self.image, "unpinned_image": spec.image}
        return spec.model_copy(update={"taken": self.sentence, **pinned})


class LikeServer(LoggingConfigurable):
    """Takes from a server what a request does not set itself."""

    launcher = Instance(JobLauncher)
    profiles = Instance(Profiles)
    servers = Instance(HubServers)

    async def apply(self, user: User, request: JobRequest) -> tuple[JobRequest, Taken]:
        """Return the whole request of a job with ``like``, and what else it has from the server.

        The profile is from the hub. The image and the environment are those of the running pod. A server that
        does not run has only its profile, and its home. Raises InvalidRequest, with the field, if there is no
        such server, or its choice is not allowed here; Unavailable if hub or cluster do not respond.
        """
        name = parse_reference(str(request.like))
        if user.kind != "user":
            raise InvalidRequest.of_field("like", "is for users: a service of the hub has no server")
        server = await self.servers.get(user.name, name)
        pod = await self._read_pod(user, server)
        fields: dict[str, Any] = {}
        taken = []
        problems: list[str] = []
        if request.profile is None and server.user_options.get("profile"):
            choice = await self.profiles.read_user_options(user, server.user_options)
            problems = choice.problems
            if choice.profile is None and problems and await self.profiles.list(user):
                message = f"{' '.join(problems)} Set profile in the request"
                raise InvalidRequest.of_field("like", message)
            if choice.profile is not None:
                options = choice.profile_options | request.profile_options
                fields |= {"profile": choice.profile, "profile_options": options}
                what = " with its options" if options else ""
                taken.append(f"the profile {choice.profile!r}{what} from the hub")
        image = await self._choose_image(user, request, fields, pod) if pod is not None else None
        if pod is not None and image is not None:
            fields["image"] = pod.image
            digest = "" if pod.digest is None else f" ({pod.digest})"
            taken.append(f"the image {pod.image}{digest} from its pod")
        env = {key: value for key, value in (pod.env if pod else {}).items() if key not in request.env}
        if env:
            fields["env"] = env | request.env
            noun = "environment variable" if len(env) == 1 else "environment variables"
            taken.append(f"{len(env)} {noun} from its pod")
        JobRequest.from_json({"name": request.name} | fields)
        whole = request.model_copy(update=fields)
        spec = await self._check(user, server, whole, fields)
        if spec.home is not None and request.home is None:
            taken.append("its home")
        sentence = " ".join([f"From {describe_server(name)}: {_join(taken) or 'nothing'}.", *problems])
        return whole, Taken(sentence, image if image and image != fields.get("image") else None)

    async def _read_pod(self, user: User, server: HubServer) -> ServerPod | None:
        if not server.is_running:
            return None
        try:
            return await self.launcher.read_server(user.name, server)
        except LauncherUnavailable as error:
            raise Unavailable(f"Your server's pod cannot be read now: {error}") from error

    async def _choose_image(
        self, user: User, request: JobRequest, fields: dict[str, Any], pod: ServerPod
    ) -> str | None:
        """Return the image of a server's pod, by its digest if that is known; None: that of the profile.

        The admin's rules for images are those for its name: the pod says that it has this digest.
        """
        if request.image is not None or not pod.image:
            return None
        try:
            await self.profiles.make_spec(user, request.model_copy(update=fields | {"image": pod.image}))
        except InvalidRequest as error:
            is_of_image = any(each["field"] == "image" for each in error.details or ())
            if not is_of_image or "profile" not in fields:
                return pod.image
            return None  # started before the admin changed the profile, which has its own
        return pod.pinned_image or pod.image

    async def _check(
        self, user: User, server: HubServer, request: JobRequest, fields: dict[str, Any]
    ) -> JobSpec:
        """Return the spec of the whole request; an error about a field of the server is one of ``like``."""
        try:
            return await self.profiles.make_spec(user, request)
        except InvalidRequest as error:
            wrong = next((each for each in error.details or () if each["field"] in fields), None)
            if wrong is None:
                raise
            message = (
                f"{describe_server(server.name)} has the {wrong['field']} {fields[wrong['field']]!r}: "
                f"{wrong['message']}. Set {wrong['field']} in the request"
            )
            raise InvalidRequest.of_field("like", message) from None


def _join(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
