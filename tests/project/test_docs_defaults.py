"""Each default that a page of the documentation names is the default of its trait.

Every time and size on a page, and every other number in a sentence that names a trait, is either in
``STATED``, where the trait's default stands in its place, or in ``NO_DEFAULTS``.
"""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path
from typing import Any

import pytest

from kbatch_server.profiles.spawner import FUNCTIONS_SECONDS

DOCS = Path(__file__).parents[2] / "docs"

GENERATED = re.compile(r"<!-- made by .*?(?:<!-- end -->|\n\n)", re.DOTALL | re.IGNORECASE)
"""The part of a page that is made from another file, which another test holds."""

WORDS = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))

SHARES = {0.25: "a quarter", 0.5: "half", 1.0: "all"}

LONG_UNITS = ((365 * 86400, "year"), (7 * 86400, "week"))
"""Those that are used in words only."""

STATED = {
    "design.md": [
        "anew every {Reconciler.resync_seconds:time}",
        "tokens seen in the last {HubAuthenticator.cache_max_age_seconds:unit} still pass",
        "or after {Uploads.max_upload_seconds:words} in all",
        "Another process leads in about {Leader.retry_seconds} s,",
        "2,000 changes and {JobWatch.max_kept_bytes:size}; a client",
    ],
    "install.md": [
        "`LocalProcessJobLauncher.user`, by default `{LocalProcessJobLauncher.user}`",
        "`LocalProcessJobLauncher.max_processes` ({LocalProcessJobLauncher.max_processes})",
        "It requests {JobConfig.sidecar_resources[requests][cpu]} CPU and"
        " {JobConfig.sidecar_resources[requests][memory]:quantity} of memory, and may use"
        " {JobConfig.sidecar_resources[limits][cpu]} CPU",
        '`allowed_images` is `["{JobConfig.allowed_images[0]}"]` unless',
    ],
    "job-tokens.md": [
        "`JobTokens.lifetime_seconds` ({JobTokens.lifetime_seconds:time}) at the latest",
        "at most for `HubTokens.max_token_seconds` ({HubTokens.max_token_seconds:words})",
        "A job may submit {JobConfig.max_children} jobs (`JobConfig.max_children`",
    ],
    "launchers.md": [
        "`max_processes` ({LocalProcessJobLauncher.max_processes:,})",
        "`min_uid` ({LocalProcessJobLauncher.min_uid}) or more, and otherwise as the account `user`"
        " (`{LocalProcessJobLauncher.user}`)",
    ],
    "limits.md": [
        "| `Limits.max_queued` | {Limits.max_queued:,} queued jobs",
        "| `Limits.max_record_bytes` | {Limits.max_record_bytes:size} of the database",
        "{Throttle.submits_per_minute:,} a minute, after a burst of `submit_burst`"
        " ({Throttle.submit_burst:,})",
        "`DiskSpace.min_free_bytes` ({DiskSpace.min_free_bytes:size})",
        "| `DiskSpace.max_user_share` | {DiskSpace.max_user_share:share} of the disk",
        "the service caches its result for {Limits.hook_max_age_seconds:words} |",
        "every `Limits.half_life_seconds` ({Limits.half_life_seconds:words})",
    ],
    "operations.md": [
        "tokens of the last {HubAuthenticator.cache_max_age_seconds:unit} still work",
        "`Retention.audit_ttl_seconds` ({Retention.audit_ttl_seconds:words})",
        "for `InflightRequests.drain_seconds`, so that Kubernetes can send them elsewhere."
        " ({InflightRequests.drain_seconds} unless",
    ],
    "rest-api.md": [
        "ended in the last {KBatchServer.kbatch_list_days} days (`KBatchServer.kbatch_list_days`)",
        "(before the second attempt; {JobConfig.retry_delay_seconds:g} unless the admin set another value)",
    ],
    "secrets.md": ["that a user may keep ({Secrets.max_secrets})"],
    "security.md": [
        "in {Limits.max_queued:,} queued jobs at a time",
        '**`allowed_images` is `["{JobConfig.allowed_images[0]}"]` and',
        "[for {Retention.audit_ttl_seconds:words}](operations.md#audit)",
    ],
    "storage.md": [
        "| `FileStorage.max_bytes` | `{FileStorage.max_bytes}`: no limit |",
        "| `FileStorage.min_free_bytes` | `{FileStorage.min_free_bytes}` |",
        "`DiskSpace.min_free_bytes` ({DiskSpace.min_free_bytes:size})",
        "| `AzureBlobStorage.sign_urls` | `{AzureBlobStorage.sign_urls}` |",
        "| `AzureBlobStorage.timeout_seconds` | `{AzureBlobStorage.timeout_seconds}` |",
        "| `S3Storage.timeout_seconds` | `{S3Storage.timeout_seconds}` |",
        "| {Retention.job_ttl_seconds:forever} | `Retention.job_ttl_seconds` |",
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
        "| a job's JSON | {KBatchServer.max_job_bytes:size}, unless the admin set another size;"
        " {KBatchServer.max_body_bytes:3*size} with code in the body",
        "keeps an upload for {Uploads.upload_ttl_seconds:words} after you last sent it",
        "| results | {Outputs.max_output_bytes:size} in {Outputs.max_output_files:,} files, unless",
        "| a log | {LogRecorder.max_log_bytes:size} for each attempt, unless",
        "| results {Retention.output_ttl_seconds:time} after the job's end, logs"
        " {Retention.log_ttl_seconds:days}, the record {Retention.job_ttl_seconds:forever},"
        " unless the admin set other times; an upload that no job names {Uploads.upload_ttl_seconds:time} |",
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
    "kubespawner.md": [f"Together they may take {FUNCTIONS_SECONDS:.0f} seconds"],
    "design.md": [
        "within two seconds of seeing it first",
        "10 s after one has failed, then 20 s, up to ten minutes",
        "knows its pods (two minutes at most)",
        "10 MiB a file by default",
        "deletes it when it is a day old",
        "rejected after a minute of silence",
        "is given up after 75 s",
    ],
    "helm.md": ["`InflightRequests.drain_seconds` (5) more", "30 days later Kubernetes removes them"],
    "index.md": ["in ten minutes, on your own machine"],
    "install.md": [
        "It takes a minute.",
        "no request may take longer than a minute",
        "some seconds for a gigabyte, up to a minute for a ZIP with 10 GiB in it",
        "`KubeJobLauncher.init_image`, and needs Kubernetes 1.29",
        "on a lost machine after ten seconds",
        "deletes them a day later",
    ],
    "limits.md": [
        "the result of the first two;",
        "adds its rate every second",
        "A charge loses half of its weight",
        "and at least a minute",
        "does not read one piece of its answer for five minutes",
        "discards the rest of the body for five seconds",
        "pages of more than a hundred jobs",
        "at most half of them",
        "for 15 minutes to fetch its code",
        "never more than a quarter of `max_connections`",
    ],
    "operations.md": [
        "the chart sets 5 where it runs replicas",
        "as orphans a day later",
    ],
    "page.md": [
        "one script of about 145 kB",
        "a second script of 95 kB",
        "even of one of a gigabyte",
        "after half a minute",
    ],
    "rest-api.md": [
        "up to ten minutes",
        'like `"2G"`',
        "-1000 to 1000",
        "(1 MiB in all with a `limit` to 100, 4 MiB with a larger one",
        "after a quarter of an hour",
        "each cut off after 8 KiB",
        "123456789 bytes were cut out here: the log is longer than 1073741824 bytes",
        "the newest 10,000 at most",
    ],
    "secrets.md": [
        "Its value is text of up to 64 KiB",
        "All your secrets together may have 256 KiB",
        "all that a job gets may have 256 KiB",
        "; 0 turns secrets off",
    ],
    "security.md": ["encrypted with the keys, for ten minutes"],
    "storage.md": [
        "that are older than a day and that its database",
        "for a week at most",
        "interrupted uploads after a week",
        "expire after one or a few hours",
        "at most 48 GiB",
        "and that are older than a day, the remains",
    ],
    "troubleshooting.md": ["two schedulers", "10 MiB by default"],
    "tutorial.md": ["In ten minutes you run"],
    "users.md": [
        "twice as long as the one before, up to ten minutes",
        "every half a minute during a long cell",
        "`/dev/shm` has 64 MiB",
        "holds back 8 KiB of its output",
        "prints it once a minute",
        "leaves two seconds to send",
        "larger than 1 MiB",
        "200 names, 64 KiB of values",
        "| 256 KiB, names and values together",
        "| 64 KiB and 5,000 words each",
        "GPUs, hours a month",
        "some 500,000 jobs with small environments",
        "at least 0.001 CPUs and 6 MiB",
        "never a minute without data",
        "10 GiB unpacked, folders 100 deep, names of 255 bytes",
        "no file of more than 100 MiB",
    ],
}
"""Times, sizes and numbers beside traits that are no trait's default."""

_TRAIT = re.compile(r"`(?:c\.)?((?!JupyterHub|README)[A-Z][A-Za-z0-9]+\.[a-z_]+)(?: = \w+)?`")
_STATUS = r"(?:40[0-9]|41[36]|429|50[37])\b"
"""Those of HTTP are no defaults."""

_COUNT = r"two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|twenty|thirty|hundred|thousand"
_UNIT = (
    r"(?:s|ms|seconds?|minutes?|hours?|days?|weeks?|months?|years?"
    r"|bytes|[KMGT]i?B|kB|kilobytes?|megabytes?|gigabytes?)\b"
)
_AMOUNT = re.compile(
    r"(?<![\w.,-])(?:\d[\d.,]*|(?!a second)an?|one|every|each|the last|half|quarter|dozen"
    rf"|{_COUNT})[ -]{_UNIT}",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    rf"(?<![\w/.,-])(?!{_STATUS})\d|(?<![= ])\b(?:True|False)\b"
    rf"|(?i:\b(?:{_COUNT}|twice|dozen|half|quarter)\b)"
)


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
        """Return a value in the words of ``format_spec``, or as Python formats it.

        They are ``1 GiB`` (size, quantity), ``3 GiB`` (3*size), ``7 days`` (time), ``a week`` (words),
        ``week`` (unit), ``7`` (days), ``half`` (share) and ``forever`` for 0.
        """
        times, _, rest = format_spec.rpartition("*")
        if rest == "size":
            return format_size(value * int(times or 1))
        if format_spec == "quantity":
            return re.sub(r"(?<=\d)(?=[A-Z])", " ", value) + "B"
        if format_spec in ("time", "words"):
            return format_time(value, in_words=format_spec == "words")
        if format_spec == "share":
            return SHARES[value]
        if format_spec == "forever":
            return format_spec if value == 0 else format_time(value, in_words=True)
        if format_spec == "unit":
            return format_time(value, in_words=True).removeprefix("a ").removeprefix("an ")
        if format_spec == "days":
            return f"{value // 86400}"
        return format(value, format_spec)


def format_size(value: int) -> str:
    power = max(power for power in (0, 10, 20, 30) if value >= 2**power)
    assert value % 2**power == 0
    return f"{value >> power} {('bytes', 'KiB', 'MiB', 'GiB')[power // 10]}"


def format_time(seconds: float, *, in_words: bool) -> str:
    units = LONG_UNITS + UNITS if in_words else UNITS
    size, unit = next(each for each in units if seconds % each[0] == 0)
    count = int(seconds // size)
    if in_words and count == 1:
        return f"an {unit}" if unit == "hour" else f"a {unit}"
    return f"{WORDS[count] if in_words else count} {unit}{'s' * (count != 1)}"


def read_page(name: str) -> str:
    """Return a page's text with each paragraph and each row of a table in one line."""
    text = GENERATED.sub("", (DOCS / name).read_text())
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<!\|)\n(?=[^\n|#>*-])(?!\d+\. )\s*", " ", text)


def find_trait_names() -> re.Pattern[str]:
    """Return what finds the names of traits, with their class or, of those that are numbers, without."""
    numbers = {
        name.partition(".")[2] for name, value in read_defaults().items() if type(value) in (int, float)
    }
    return re.compile(rf"{_TRAIT.pattern}|`(?:{'|'.join(sorted(numbers))})`")


_TRAIT_NAME = find_trait_names()


def find_others(text: str, known: list[str]) -> list[str]:
    """Return the sentences of a page with a time, a size or, beside a trait, a number that is not known."""
    rest = list(text)
    for each in known:
        for match in re.finditer(re.escape(each), text):
            rest[slice(*match.span())] = "\0" * len(each)
    ends = [match.span() for match in re.finditer(r"(?<=[.:])\s+(?=[A-Z`])|\n", text)]
    starts = [0, *(end for _, end in ends)]
    found = []
    for start, end in zip(starts, [*(begin for begin, _ in ends), len(text)], strict=True):
        sentence, left = text[start:end], _TRAIT_NAME.sub("", "".join(rest[start:end]))
        names_trait = _TRAIT_NAME.search(sentence) or re.search(
            r"what the admin set|unless the admin set", sentence
        )
        if _AMOUNT.search(left) or (names_trait and _NUMBER.search(left)):
            found.append(sentence)
    return found


@pytest.mark.parametrize(("page", "stated"), [(page, each) for page, all in STATED.items() for each in all])
def test_a_default_that_a_page_names_is_its_traits(page: str, stated: str) -> None:
    assert Sentence().format(stated) in read_page(page)


@pytest.mark.parametrize("page", sorted({path.name for path in DOCS.glob("*.md")} - {"configuration.md"}))
def test_each_default_that_a_page_names_is_held(page: str) -> None:
    known = [Sentence().format(each) for each in STATED.get(page, [])] + NO_DEFAULTS.get(page, [])
    assert find_others(read_page(page), known) == []


@pytest.mark.parametrize(
    ("page", "other"), [(page, each) for page, all in NO_DEFAULTS.items() for each in all]
)
def test_what_is_no_default_is_on_its_page(page: str, other: str) -> None:
    assert other in read_page(page)


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("The service keeps entries for `Limits.ttl_seconds` (a year).", True),
        ("The service keeps entries for a year.", True),
        ("Tokens of the last minute still work.", True),
        ("`Limits.times` is twice as much.", True),
        ("A JSON has 2 MiB; 48 MiB with code.", True),
        ("Ten hours later, it ends.", True),
        ("One more gets 429: `Limits.most`.", False),
        ("A second one waits for two others.", False),
    ],
)
def test_a_default_in_words_is_found(text: str, is_found: bool) -> None:
    assert bool(find_others(text, ["2 MiB"])) == is_found


def test_a_default_that_a_help_says_in_words_is_its_traits() -> None:
    entries = re.findall(
        r"^### `([\w.]+)`\n\n\*[^\n]*\*, default `([\d.]+)`$(.*?)(?=^##|\Z)",
        (DOCS / "configuration.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    helps = [(name, ast.literal_eval(default), " ".join(help.split())) for name, default, help in entries]
    said = [(*each, words[1]) for each in helps if (words := re.search(r"Default: ([^.,;:]+)", each[2]))]
    said = [each for each in said if _AMOUNT.fullmatch(each[3]) or each[3].isdigit()]
    assert said
    for name, value, _, words in said:
        if words.isdigit():
            assert words == f"{value}", name
        elif words.endswith(("B", "bytes")):
            assert words == format_size(value), name
        else:
            assert words == format_time(value, in_words=not words[0].isdigit()), name
