"""The settings of KubeJobLauncher for namespaces: one for all jobs, or one for each user."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from traitlets import Bool, Dict, List, TraitError, Unicode, default, validate
from traitlets.config import Configurable

from ...templates import expand, find_problem
from .manifests.namespaces import OBJECT_FIELDS, find_object_problem, find_template_problem, is_namespace

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def find_own_namespace() -> str:
    """Return the namespace in POD_NAMESPACE, or that of the pod of the service, or ``default``."""
    if os.environ.get("POD_NAMESPACE"):
        return os.environ["POD_NAMESPACE"]
    return NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.exists() else "default"


class NamespaceTraits(Configurable):
    """Where jobs run, and what a user's namespace has."""

    namespace = Unicode(
        help="""The namespace for jobs, unless each user has one (``enable_user_namespaces``). Default: the
        environment variable POD_NAMESPACE, else the namespace of the pod that the service runs in, else
        ``default``.
        """,
        config=True,
    )

    enable_user_namespaces = Bool(
        False,
        help="""Run the jobs of each user in the user's own namespace, as KubeSpawner's setting of this name
        does with servers. Default: False.

        With ``create_user_namespaces`` or ``watch_all_namespaces``, the service needs its rights in all
        namespaces, by a ClusterRole.
        """,
        config=True,
    )

    user_namespace_template = Unicode(
        "{hubnamespace}-{username}",
        help="""The template of the name of a user's namespace, as for KubeSpawner: with the same value, jobs
        run in the namespace of the user's server. Default: ``{hubnamespace}-{username}``.

        ``{hubnamespace}`` is ``hub_namespace``. The other fields are those of all templates. If KubeSpawner's
        ``slug_scheme`` is ``escape``, write ``{escaped_username}``.
        """,
        config=True,
    )

    hub_namespace = Unicode(
        help="""The namespace of the hub, for ``{hubnamespace}`` in templates. If it is ``default``, the
        service has ``user`` there, as KubeSpawner does. Default: the service's own namespace.
        """,
        config=True,
    )

    user_namespace_labels = Dict(
        help="""Labels of the namespaces that the service creates, as for KubeSpawner. Their values may be
        templates, with ``{namespace}`` and ``{hubnamespace}`` in addition. Existing namespaces do not change.
        Example: ``{"pod-security.kubernetes.io/enforce": "restricted"}``.
        """,
        config=True,
    )

    user_namespace_annotations = Dict(
        help="""Annotations of the namespaces that the service creates: see ``user_namespace_labels``.""",
        config=True,
    )

    create_user_namespaces = Bool(
        True,
        help="""Create missing namespaces of users, as KubeSpawner does. Default: True.

        With False, something else creates them, and the service needs no right to namespaces. It uses each
        namespace as it is. A job whose namespace does not exist fails.
        """,
        config=True,
    )

    use_existing_user_namespaces = Bool(
        False,
        help="""With ``create_user_namespaces``, also use namespaces that something else created, such as
        KubeSpawner. Default: False: a job whose namespace was not created by this service for this user
        fails, as the namespace could belong to something else (a user ``system`` and ``kube-{username}``).

        The service never removes such a namespace.
        """,
        config=True,
    )

    user_namespace_objects = List(
        Dict(),
        help="""Manifests of objects that each user's namespace gets: ResourceQuota, LimitRange,
        NetworkPolicy, ServiceAccount, Role and RoleBinding. All texts in them may be templates: see
        ``user_namespace_labels``. Write ``{{`` and ``}}`` for braces.

        The service creates them before the user's first job after its start, and replaces those whose
        manifest has changed. Jobs wait while it cannot, and their messages say why. It never changes an
        object that it did not create, and does not remove objects that are no longer in this list. To
        create a RoleBinding, it needs the rights in it itself, or the right to ``bind`` its role. Example::

            c.KubeJobLauncher.user_namespace_objects = [
                {
                    "apiVersion": "v1",
                    "kind": "ResourceQuota",
                    "metadata": {"name": "jobs"},
                    "spec": {"hard": {"requests.cpu": "16", "requests.memory": "64Gi"}},
                },
            ]
        """,
        config=True,
    )

    watch_all_namespaces = Bool(
        help="""Watch all namespaces at once, if each user has one. With False, the service watches each
        namespace that has jobs, with three connections each: then Roles in the existing namespaces are
        enough, without a ClusterRole. Default: the value of ``create_user_namespaces``.
        """,
        config=True,
    )

    @default("namespace")
    def _default_namespace(self) -> str:
        return find_own_namespace()

    @default("hub_namespace")
    def _default_hub_namespace(self) -> str:
        return find_own_namespace()

    @default("watch_all_namespaces")
    def _default_watch_all_namespaces(self) -> bool:
        return bool(self.create_user_namespaces)

    @validate("namespace", "hub_namespace")
    def _validate_namespace(self, proposal: Any) -> str:
        value: str = proposal.value
        name = f"KubeJobLauncher.{proposal.trait.name}"
        if "{" in value:
            raise TraitError(
                f"{name} names one namespace, not {value!r}; for a namespace for each user, set "
                "KubeJobLauncher.enable_user_namespaces = True and user_namespace_template"
            )
        if not is_namespace(value):
            raise TraitError(f"{name} must be the name of a namespace, not {value!r}")
        return value

    @validate("user_namespace_template")
    def _validate_template(self, proposal: Any) -> str:
        problem = find_template_problem(proposal.value)
        if problem is not None:
            raise TraitError(f"KubeJobLauncher.user_namespace_template: {proposal.value!r}: {problem}")
        return str(proposal.value)

    @validate("user_namespace_labels", "user_namespace_annotations")
    def _validate_labels(self, proposal: Any) -> dict[str, str]:
        value: dict[str, str] = proposal.value
        name = f"KubeJobLauncher.{proposal.trait.name}"
        if not all(isinstance(each, str) for pair in value.items() for each in pair):
            raise TraitError(f"{name} must be a dict of texts")
        problem = find_problem(value, OBJECT_FIELDS)
        if problem is not None:
            raise TraitError(f"{name}: {problem}")
        return value

    @validate("user_namespace_objects")
    def _validate_objects(self, proposal: Any) -> list[dict[str, Any]]:
        value: list[dict[str, Any]] = proposal.value
        for template in value:
            problem = find_object_problem(template)
            if problem is not None:
                raise TraitError(f"KubeJobLauncher.user_namespace_objects: {problem}")
        names = [(each["kind"], each["metadata"]["name"]) for each in value]
        if len(set(names)) < len(names):
            raise TraitError("KubeJobLauncher.user_namespace_objects: two objects have one kind and name")
        return value

    def get_namespace(self, user: str) -> str:
        """Return the namespace of a user's jobs; it may be no valid name for some users."""
        if not self.enable_user_namespaces:
            return str(self.namespace)
        return str(expand(self.user_namespace_template, user, place=self._get_hub_fields()))

    def get_namespace_fields(self, user: str) -> dict[str, str]:
        """Return the fields of templates for a user's namespace beside those of the user."""
        return {**self._get_hub_fields(), "namespace": self.get_namespace(user)}

    def _get_hub_fields(self) -> dict[str, str]:
        # as in KubeSpawner: nobody's namespace begins with "default"
        return {"hubnamespace": "user" if self.hub_namespace == "default" else self.hub_namespace}
