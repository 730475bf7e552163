"""The hub of the demo: anybody who has the password may log in, from this machine only."""

import os

c = get_config()  # noqa: F821

load_subconfig(os.environ["KBATCH_DEMO_SNIPPET"])  # noqa: F821

c.JupyterHub.bind_url = os.environ["KBATCH_DEMO_URL"]
c.JupyterHub.hub_bind_url = os.environ["KBATCH_DEMO_HUB_URL"]
c.ConfigurableHTTPProxy.api_url = os.environ["KBATCH_DEMO_PROXY_URL"]
c.ConfigurableHTTPProxy.command = [os.environ["KBATCH_DEMO_PROXY"]]
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = os.environ["KBATCH_DEMO_PASSWORD"]
c.Authenticator.allowed_users = {"demo"}
c.JupyterHub.default_url = "/services/kbatch/"

# The demo asks for a token in the name of its user, as the user would on the hub's token page.
c.JupyterHub.services.append({"name": "demo-script", "api_token": os.environ["KBATCH_DEMO_ADMIN_TOKEN"]})
c.JupyterHub.load_roles.append(
    {"name": "demo-script", "scopes": ["admin:users", "tokens"], "services": ["demo-script"]}
)
