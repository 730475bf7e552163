"""Paste this into ``jupyterhub_config.py``, so that the hub's users can run batch jobs.

It has three parts: the scopes of the service, the roles that have them, and the service itself. The hub
starts the service, and restarts it when the hub itself restarts. If you run the service yourself, set its URL
in KBATCH_SERVICE_URL and its token in KBATCH_API_TOKEN in the hub's environment.
"""

import os
import sys

from traitlets.config import LazyConfigValue

c = get_config()  # noqa: F821

# 1. The scopes of kbatch-server. A token may have only one of them: a token for CI can submit and not read,
# and a token for a dashboard can only read.
c.JupyterHub.custom_scopes.update(
    {
        "custom:kbatch:jobs:submit": {"description": "Upload code and submit batch jobs"},
        "custom:kbatch:jobs:read": {"description": "Read your batch jobs, their logs and results"},
        "custom:kbatch:jobs:cancel": {"description": "Cancel and delete your batch jobs"},
        "custom:kbatch:admin": {
            "description": "Read and cancel the batch jobs of all users",
            "subscopes": [
                "custom:kbatch:jobs:submit",
                "custom:kbatch:jobs:read",
                "custom:kbatch:jobs:cancel",
            ],
        },
    }
)

# 2. The roles that have these scopes. Here, all users have them. To allow only some users, give the first
# role its own name and `groups` or `users`. The role `server` gives the scopes to $JUPYTERHUB_API_TOKEN in
# each user's server, so that `kbatch` works there. A role that this hub already defines gets these scopes in
# addition, because a hub does not start if a role is defined twice.
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
        "description": "See and cancel the batch jobs of all users",
        "scopes": ["access:services!service=kbatch", "custom:kbatch:admin"],
        "groups": ["kbatch-admins"],
    },
]


class MergedRoles(LazyConfigValue):
    """Adds roles to those of the hub. If both define a role, the hub's gets our scopes in addition."""

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
    "oauth_client_allowed_scopes": [*kbatch_scopes, "custom:kbatch:admin"],  # of users who open its page
    "oauth_no_confirm": True,
}
if "KBATCH_SERVICE_URL" in os.environ:
    kbatch_service["url"] = os.environ["KBATCH_SERVICE_URL"]
    kbatch_service["api_token"] = os.environ["KBATCH_API_TOKEN"]
else:
    kbatch_service["url"] = f"http://127.0.0.1:{os.environ.get('KBATCH_PORT', '8050')}"
    kbatch_service["command"] = [sys.executable, "-m", "kbatch_server"]
    kbatch_service["environment"] = {
        # the hub passes on only a few variables of its own environment
        name: value
        for name, value in os.environ.items()
        if name.startswith(("KBATCH_", "AZURE_", "AWS_", "PG"))
        or name in ("KUBECONFIG", "DEFAULT_FILE_STORAGE", "GOOGLE_APPLICATION_CREDENTIALS")
    }
    if "KBATCH_DIRECTORY" in os.environ:
        # the folder of kbatch_server_config.py and of the service's files
        kbatch_service["cwd"] = os.environ["KBATCH_DIRECTORY"]
c.JupyterHub.services.append(kbatch_service)
