"""The labels and annotations by which what is made for a job is found again. Pure."""

from __future__ import annotations

PREFIX = "kbatch.jupyter.org/"


INSTANCE_LABEL = f"{PREFIX}instance"


JOB_ID_LABEL = f"{PREFIX}job-id"


USERNAME = f"{PREFIX}username"
"""As a label the user's slug, as an annotation the name itself."""


JOB_NAME_ANNOTATION = f"{PREFIX}job-name"


LAUNCHED_ANNOTATION = f"{PREFIX}launched"
"""Set together with ``suspend: false``: from then on launch() leaves the Job alone."""


RETRIES_ANNOTATION = f"{PREFIX}retries"
"""How often the job is to be tried again: ``backoffLimit`` is raised for what counts as no attempt."""


QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
