"""The labels and annotations that identify the objects of a job. Pure."""

from __future__ import annotations

PREFIX = "kbatch.jupyter.org/"


INSTANCE_LABEL = f"{PREFIX}instance"


JOB_ID_LABEL = f"{PREFIX}job-id"


USERNAME = f"{PREFIX}username"
"""As a label the user's slug, as an annotation the user's name."""


JOB_NAME_ANNOTATION = f"{PREFIX}job-name"


LAUNCHED_ANNOTATION = f"{PREFIX}launched"
"""Set when the Job is resumed, or given to Kueue: from then on launch() does not change the Job."""


RETRIES_ANNOTATION = f"{PREFIX}retries"
"""The number of retries: ``backoffLimit`` is larger if pods do not count as attempts."""


QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"


TEMPLATE_ANNOTATION = f"{PREFIX}template"
"""The hash of the template of an object in a user's namespace."""


FORGOTTEN_ANNOTATION = f"{PREFIX}forgotten-at"
"""On a namespace, when its user was forgotten: it is removed when it is empty."""
