"""Each default that a page of the documentation names is the default of its trait."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"

GENERATED = {"configuration.md", "helm.md"}
"""Pages that are made from the code."""

WORDS = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))

STATED = {
    "design.md": ["anew every {Reconciler.resync_seconds:time}"],
    "install.md": [
        "`LocalProcessJobLauncher.max_processes` ({LocalProcessJobLauncher.max_processes})",
        "It requests {JobConfig.sidecar_resources[requests][cpu]} CPU and"
        " {JobConfig.sidecar_resources[requests][memory]:quantity} of memory, and may use"
        " {JobConfig.sidecar_resources[limits][cpu]} CPU",
        '`allowed_images` is `["{JobConfig.allowed_images[0]}"]` unless',
    ],
    "launchers.md": ["`max_processes` ({LocalProcessJobLauncher.max_processes:,})"],
    "limits.md": [
        "| `Limits.max_queued` | {Limits.max_queued:,} queued jobs",
        "| `Limits.max_record_bytes` | {Limits.max_record_bytes:size} of the database",
        "{Throttle.submits_per_minute:,} a minute, after a burst of `submit_burst`"
        " ({Throttle.submit_burst:,})",
        "`DiskSpace.min_free_bytes` ({DiskSpace.min_free_bytes:size})",
    ],
    "operations.md": [
        "for `InflightRequests.drain_seconds`, so that Kubernetes can send them elsewhere."
        " ({InflightRequests.drain_seconds} unless"
    ],
    "rest-api.md": [
        "ended in the last {KBatchServer.kbatch_list_days} days (`KBatchServer.kbatch_list_days`)",
        "(before the second attempt; {JobConfig.retry_delay_seconds:g} where the admin set no other)",
    ],
    "security.md": ["in {Limits.max_queued:,} queued jobs at a time"],
    "storage.md": [
        "| `FileStorage.max_bytes` | `{FileStorage.max_bytes}`: no limit |",
        "| `FileStorage.min_free_bytes` | `{FileStorage.min_free_bytes}` |",
        "`DiskSpace.min_free_bytes` ({DiskSpace.min_free_bytes:size})",
        "| `AzureBlobStorage.sign_urls` | `{AzureBlobStorage.sign_urls}` |",
        "| `AzureBlobStorage.timeout_seconds` | `{AzureBlobStorage.timeout_seconds}` |",
        "| `S3Storage.timeout_seconds` | `{S3Storage.timeout_seconds}` |",
        "| {Uploads.upload_ttl_seconds:time} after it was last sent | `Uploads.upload_ttl_seconds` |",
        "| {Retention.log_ttl_seconds:time} after the job's end | `Retention.log_ttl_seconds` |",
        "| {Retention.output_ttl_seconds:time} after the job's end | `Retention.output_ttl_seconds` |",
        "every {Janitor.interval_seconds:words} (`Janitor.interval_seconds`), and every"
        " {Janitor.orphans_interval_seconds:words}",
    ],
    "users.md": [
        "`start_timeout_seconds` ({JobConfig.start_timeout_seconds:time}, unless",
        "`schedule_timeout_seconds` ({JobConfig.schedule_timeout_seconds:time}, unless",
        "The second attempt begins {JobConfig.retry_delay_seconds:time} after",
        "At most {Outputs.max_output_files:,} files of {Outputs.max_output_bytes:size} in all are kept",
        "its grace period ({JobConfig.termination_grace_period_seconds:time})",
        "| one ZIP | {Uploads.max_upload_bytes:size}, unless",
        "| uploads at a time | {Uploads.concurrent_uploads_per_user};",
        "| the time that an upload takes | {Uploads.max_upload_seconds:words}, and",
        "| a job's JSON | {KBatchServer.max_job_bytes:size}, unless",
        "| results | {Outputs.max_output_bytes:size} in {Outputs.max_output_files:,} files, unless",
        "| a log | {LogRecorder.max_log_bytes:size} for each attempt, unless",
        "| results {Retention.output_ttl_seconds:time} after the job's end, logs"
        " {Retention.log_ttl_seconds:days}, the record forever, unless the admin set other times; an upload"
        " that no job names {Uploads.upload_ttl_seconds:time} |",
        "| queued jobs | {Limits.max_queued:,}, unless",
        "| {Limits.max_record_bytes:size} of the database, unless the admin set another size: some",
        "| {Throttle.submits_per_minute:,} a minute, after a burst of {Throttle.submit_burst:,}, unless",
        "| followed logs at a time | {Throttle.concurrent_streams_per_user}, unless",
        "| {JobConfig.code_volume_size:size} to `/code`, with its code; {JobConfig.output_volume_size:size}"
        " to its results, {JobConfig.home_volume_size:size} to its home, unless",
        "unpacks to more than {LocalProcessJobLauncher.max_code_bytes:size} (unless the admin set",
    ],
}
"""What the pages say, with each default in the place of its trait's name."""

NO_DEFAULTS = {
    "design.md": ["507 (`DiskSpace.min_free_bytes`)"],
    "install.md": [
        "`KubeJobLauncher.init_image`, and needs Kubernetes 1.29",
        "(`Leader.retry_seconds` sets how often the others try)",
    ],
    "operations.md": ["| `disk` | less than `DiskSpace.min_free_bytes` is free"],
    "rest-api.md": [
        "is 408 (`Throttle.body_seconds`)",
        "429 says that the user's ZIPs of this hour unpack to more than `Uploads.inflated_bytes_per_hour`",
        "So is one more job of a user whose records take `Limits.max_record_bytes`",
        "More than `JobWatch.max_watchers_per_user` at a time are 429",
    ],
    "storage.md": ["| `GCSStorage.endpoint`", "| `S3Storage.region` |"],
    "troubleshooting.md": [
        "| 403 `MissingScope` |",
        "| the service closes connections, or answers them with an empty 503 |",
        "| 408 |",
        "| 507 |",
    ],
}
"""What has a trait and a number that is not the trait's."""

_TRAIT = re.compile(r"`(?:c\.)?((?!JupyterHub|README)[A-Z][A-Za-z0-9]+\.[a-z_]+)(?: = \w+)?`")
_NUMBER = re.compile(r"\d|(?<![= ])\b(?:True|False)\b")


def read_defaults() -> dict[str, Any]:
    """Return the default of each trait, as the page of settings has it, which another test holds."""
    entries = re.findall(
        r"^### `([^\n]+)`\n\n\*[^\n]*\*, default(?: `([^\n]*)`$|:\n\n```python\n(.*?)```)",
        (DOCS / "configuration.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    found = {}
    for name, short, long in entries:
        try:
            found[name] = ast.literal_eval(short or long)
        except (SyntaxError, ValueError):
            continue  # a class
    return found


class Sentence(string.Formatter):
    """Puts the defaults of traits into a sentence, in the words of the pages."""

    def __init__(self) -> None:
        """Read the defaults."""
        self._defaults = read_defaults()

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, str]:
        """Return the default of ``Class.trait``, or what it has under ``[key]``."""
        name, *keys = re.split(r"\]?\[|\]$", field_name)
        value = self._defaults[name]
        for key in filter(None, keys):
            value = value[int(key) if isinstance(value, list) else key]
        return value, name

    def format_field(self, value: Any, format_spec: str) -> str:
        """Return ``1 GiB`` (size, quantity), ``7 days`` (time), ``ten minutes`` (words) or ``180`` (days)."""
        if format_spec == "size":
            return format_size(value)
        if format_spec == "quantity":
            return re.sub(r"(?<=\d)(?=[A-Z])", " ", value) + "B"
        if format_spec in ("time", "words"):
            return format_time(value, in_words=format_spec == "words")
        if format_spec == "days":
            return f"{value // 86400}"
        return format(value, format_spec)


def format_size(value: int) -> str:
    power = max(power for power in (0, 10, 20, 30) if value >= 2**power)
    assert value % 2**power == 0
    return f"{value >> power} {('bytes', 'KiB', 'MiB', 'GiB')[power // 10]}"


def format_time(seconds: float, *, in_words: bool) -> str:
    size, unit = next(each for each in UNITS if seconds % each[0] == 0)
    count = int(seconds // size)
    if in_words and count == 1:
        return f"an {unit}" if unit == "hour" else f"a {unit}"
    return f"{WORDS[count] if in_words else count} {unit}{'s' * (count != 1)}"


def read_page(name: str) -> str:
    """Return a page's text with each paragraph and each row of a table in one line."""
    text = re.sub(r"^```.*?^```$", "", (DOCS / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<!\|)\n(?=[^\n|#>*-])\s*", " ", text)


@pytest.mark.parametrize(("page", "stated"), [(page, each) for page, all in STATED.items() for each in all])
def test_a_default_that_a_page_names_is_its_traits(page: str, stated: str) -> None:
    assert Sentence().format(stated) in read_page(page)


@pytest.mark.parametrize("page", sorted({path.name for path in DOCS.glob("*.md")} - GENERATED))
def test_each_default_that_a_page_names_is_held(page: str) -> None:
    known = [Sentence().format(each) for each in STATED.get(page, [])] + NO_DEFAULTS.get(page, [])
    for sentence in re.split(r"(?<=[.:])\s+(?=[A-Z`])|\n", read_page(page)):
        says_number = _TRAIT.search(sentence) and _NUMBER.search(_TRAIT.sub("", sentence))
        is_the_admins = re.search(r"or what the admin set|unless the admin set", sentence) and _NUMBER.search(
            sentence
        )
        if says_number or is_the_admins:
            assert any(each in sentence or sentence in each for each in known), sentence
