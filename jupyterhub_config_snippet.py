"""What to paste into ``jupyterhub_config.py`` so that the hub's users can run batch jobs.

It has three parts: the scopes that the service knows, who holds them, and the service itself. As it stands,
the hub starts the service (and restarts it with itself). With KBATCH_SERVICE_URL and KBATCH_API_TOKEN in the
hub's environment it is a service that somebody else runs, at that URL and with that token.
"""

import os
import sys

from traitlets.config import LazyConfigValue

c = get_config()  # noqa: F821

# 1. The scopes that kbatch-server asks for. A token may hold just one: one for CI that submits and reads
# nothing, one for a dashboard that only reads.
c.JupyterHub.custom_scopes.update(
    {
        "custom:kbatch:jobs:submit": {"description": "Upload code and submit batch jobs"},
        "custom:kbatch:jobs:read": {"description": "Read one's batch jobs, their logs and results"},
        "custom:kbatch:jobs:cancel": {"description": "Cancel and delete one's batch jobs"},
        "custom:kbatch:admin": {
            "description": "Read and cancel the batch jobs of everybody",
            "subscopes": [
                "custom:kbatch:jobs:submit",
                "custom:kbatch:jobs:read",
                "custom:kbatch:jobs:cancel",
            ],
        },
    }
)

# 2. Who holds them. All users here; to let only some, give the role its own name and `groups` or `users`.
# The role `server` is what $JUPYTERHUB_API_TOKEN in a user's server may do: with it `kbatch` works there.
# A role that this hub defines already gets these scopes in addition: no role may be defined twice.
kbatch_scopes = [
    "access:services!service=kbatch",
    "custom:kbatch:jobs:submit",
    "custom:kbatch:jobs:read",
    "custom:kbatch:jobs:cancel",
]
kbatch_roles = [
    {"name": "user", "scopes": ["self", *kbatch_scopes]},
    {"name": "server", "scopes": ["users:activity!user", "access:servers!server", *kbatch_scopes]},
    {
        "name": "kbatch-admins",
        "description": "See and cancel everybody's batch jobs",
        "scopes": ["access:services!service=kbatch", "custom:kbatch:admin"],
        "groups": ["kbatch-admins"],
    },
]


class MergedRoles(LazyConfigValue):
    """Roles that are added to those of the hub: of one that both have, the hub's gets our scopes in addition.

    A hub does not start when a role is defined twice.
    """

    def get_value(self, initial):
        """Return the roles; traitlets asks for them when all files are read."""
        roles = super().get_value(initial)
        for role in kbatch_roles:
            theirs = [each for each in roles if each["name"] == role["name"] and each != role]
            if theirs and role in roles:
                roles.remove(role)
            for each in theirs:
                scopes = each.get("scopes", role["scopes"])
                missing = [scope for scope in role["scopes"] if "kbatch" in scope and scope not in scopes]
                each["scopes"] = [*scopes, *missing]
        return roles


merged_roles = MergedRoles()
merged_roles.extend(kbatch_roles)
c.JupyterHub.load_roles = merged_roles.merge_into(c.JupyterHub.load_roles)

# 3. The service.
kbatch_service = {
    "name": "kbatch",
    "oauth_client_allowed_scopes": [*kbatch_scopes, "custom:kbatch:admin"],  # of who visits its page
    "oauth_no_confirm": True,
}
if "KBATCH_SERVICE_URL" in os.environ:
    kbatch_service["url"] = os.environ["KBATCH_SERVICE_URL"]
    kbatch_service["api_token"] = os.environ["KBATCH_API_TOKEN"]
else:
    kbatch_service["url"] = f"http://127.0.0.1:{os.environ.get('KBATCH_PORT', '8050')}"
    kbatch_service["command"] = [sys.executable, "-m", "kbatch_server"]
    kbatch_service["environment"] = {
        # the hub hands on only a few variables of its own environment
        name: value
        for name, value in os.environ.items()
        if name.startswith(("KBATCH_", "AZURE_", "AWS_", "PG"))
        or name in ("KUBECONFIG", "DEFAULT_FILE_STORAGE", "GOOGLE_APPLICATION_CREDENTIALS")
    }
    if "KBATCH_DIRECTORY" in os.environ:
        # where kbatch_server_config.py is read from, and where the service keeps its files
        kbatch_service["cwd"] = os.environ["KBATCH_DIRECTORY"]
c.JupyterHub.services.append(kbatch_service)
