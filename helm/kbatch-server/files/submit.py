"""What `helm test` runs: submit a job as a user would, and wait until it has succeeded."""

import json
import os
import sys
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

URL = os.environ["KBATCH_URL"] + "api/v1/jobs"
SECONDS = int(os.environ["TIMEOUT_SECONDS"])


def call(url, body=None):
    """Return the JSON of an answer; what the service refuses ends the test with its words."""
    headers = {"Authorization": "Bearer " + os.environ["TOKEN"], "Content-Type": "application/json"}
    try:
        request = Request(url, body and body.encode(), headers)  # noqa: S310 - the chart's own http:// URL
        with urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)
    except HTTPError as error:
        sys.exit(f"{error.code} {url}: {error.read(2000).decode(errors='replace')}")


deadline = time.monotonic() + SECONDS
job = call(URL, os.environ["JOB"])
print("submitted", job["id"], flush=True)
while job["status"] not in ("succeeded", "failed", "cancelled"):
    if time.monotonic() > deadline:
        sys.exit(f"not over after {SECONDS} seconds: {job['status']}, {job['reason']}: {job['message']}")
    time.sleep(1)
    job = call(f"{URL}/{job['id']}")
print(job["status"], job["message"])
sys.exit(job["status"] != "succeeded")
