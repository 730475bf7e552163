"""Settings of the home of a user's server in jobs. It runs nothing."""

from __future__ import annotations

from posixpath import isabs, normpath
from typing import Any

from traitlets import Bool, Enum, TraitError, Unicode, validate
from traitlets.config import Configurable

from ..errors import InvalidRequest
from ..launchers.kube.manifests.volumes import OWN_DIRS
from ..models.request import JobRequest
from ..templates import find_problem
from .podparts import list_parts

SET_LATER = frozenset({"home_placement", "taken", "unpinned_image"})
"""Fields of a job's spec that are not traits of the same name."""

UNAVAILABLE = "is not available here: ask an admin to set JobConfig.home, or choose a profile that has it"


class HomeConfig(Configurable):
    """The options of the home of the user's server, as the admin set them."""

    home = Enum(
        ["none", "same-node", "any"],
        "none",
        help="""Whether jobs may mount the home of their user's server (``home`` in a request, or ``like``),
        on Kubernetes with KubeSpawner. Default: ``none``.

        With ``same-node``, a job whose claim has the access mode ReadWriteOnce runs on the node where the
        claim is in use, and waits for room there (``schedule_timeout_seconds``). If the claim is not in use,
        it runs on any node. ``any`` does not look at the node: for a storage that attaches such claims to
        several nodes. A job whose home cannot be attached then fails after ``start_timeout_seconds``. A claim
        with ReadWriteMany never restricts the node, and one with ReadWriteOncePod is never mounted. Jobs must
        run in the namespace of the claim: see docs/home.md.
        """,
        config=True,
    )

    home_mount_path = Unicode(
        "/home/jovyan",
        help="""Where the home is mounted in servers and jobs. It is also the job's ``HOME``, unless the job
        sets another.
        """,
        config=True,
    )

    home_subpath = Unicode(
        help="""The folder of the claim that is the home, as a template: ``{username}`` if all users have one
        claim (zero-to-jupyterhub's ``singleuser.storage.static``). For a running server, the service looks at
        its pod instead. Default: the whole claim.
        """,
        config=True,
    )

    results_to_home = Bool(
        False,
        help="""Whether the results of jobs with a home are files of that home, in ``jobs/`` and a folder with
        the job's id, unless the request has its own ``results_to_home``. The service saves the results in
        both cases.
        """,
        config=True,
    )

    @validate("home_mount_path")
    def _validate_home_mount_path(self, proposal: Any) -> str:
        path: str = proposal["value"]
        if not isabs(path) or normpath(path) in (*OWN_DIRS, "/"):
            raise TraitError(f"JobConfig.home_mount_path: {path!r} must be a folder like /home/jovyan")
        return path

    @validate("home_subpath")
    def _validate_home_template(self, proposal: Any) -> str:
        template: str = proposal["value"]
        problem = find_problem(template)
        if problem is None and (template.startswith("/") or ".." in template.split("/")):
            problem = f"{template!r} must be a path inside the claim"
        if problem:
            raise TraitError(f"JobConfig.{proposal['trait'].name}: {problem}")
        return template

    @validate("home")
    def _validate_home(self, proposal: Any) -> str:
        home: str = proposal["value"]
        mounts = list_parts(getattr(self, "volume_mounts", ()))
        paths = [normpath(str(each.get("mountPath"))) for each in mounts]
        if home != "none" and normpath(self.home_mount_path) in paths:
            raise TraitError(
                f"JobConfig.home: JobConfig.volume_mounts has a volume at {self.home_mount_path} already; "
                "remove it, or set home_mount_path"
            )
        return home

    def check_home(self, request: JobRequest, *, keeps_outputs: bool) -> dict[str, Any]:
        """Return the fields of the spec about the home; raises InvalidRequest with the field."""
        wanted = request.home or None
        if wanted is not None and self.home == "none":
            raise InvalidRequest.of_field("home", UNAVAILABLE)
        if request.home is None and request.like is not None and self.home != "none":
            wanted = request.like
        to_home = self.results_to_home if request.results_to_home is None else request.results_to_home
        if request.results_to_home and wanted is None:
            raise InvalidRequest.of_field("results_to_home", "requires home, where the results would be")
        if request.results_to_home and not keeps_outputs:
            raise InvalidRequest.of_field("results_to_home", "cannot be set here: jobs have no results")
        return {
            "home": wanted,
            "home_placement": self.home,
            "results_to_home": to_home and wanted is not None and keeps_outputs,
        }
