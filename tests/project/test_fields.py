"""A job's field is spelled once: what the request's model declares is stored, shown, described and typed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kbatch_server.models.request import REQUESTED, JobRequest

ROOT = Path(__file__).parents[2]

MAX_FILES = 5
"""Of the package and the pages together, that a new field changes."""

GENERATED = ROOT / "ui/src/net/schema.ts"

ADDED = {
    "    shm_size: Annotated[int,": "    niceness: Annotated[int, Field(ge=0, le=19)] | None = None\n",
    "    shm_size: int | None = None": "    niceness: int | None = None\n",
}
"""A field to add to models/request.py, each before a line that begins so: in the request, in what is kept."""

USE_IT = """
import json
from kbatch_server.handlers import list_routes
from kbatch_server.handlers.openapi import make_openapi
from kbatch_server.profiles.config import JobConfig
from kbatch_server.jobs.service import make_request
from kbatch_server.keyring import Keyring
from kbatch_server.models.job import Job, JobSpec
from kbatch_server.models.request import JobRequest
from kbatch_server.models.times import utcnow
from kbatch_server.store.rows import make_row

request = JobRequest.from_json({"name": "a", "niceness": 7})
spec = JobConfig(image="x").make_spec(request)
job = Job(id="a-1", user="alice", name="a", spec=spec, created_at=utcnow())
job.spec = JobSpec.model_validate_json(make_row(job, {}, Keyring(["x" * 64]))["spec"])
shown, again = job.to_dict()["niceness"], make_request(job, {}).niceness
print(json.dumps([shown, again, make_openapi("1", "/", list_routes())]))
"""


def load_generator():
    spec = importlib.util.spec_from_file_location("generate_types", ROOT / "scripts/generate_types.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_files(field: str) -> set[str]:
    """Return the files of the package and the pages that spell a field."""
    sources = [*(ROOT / "kbatch_server").rglob("*.py"), *(ROOT / "ui/src").rglob("*.ts")]
    word = re.compile(rf"\b{field}\b")
    return {
        str(path.relative_to(ROOT)) for path in sources if path != GENERATED and word.search(path.read_text())
    }


def test_the_pages_have_the_types_of_the_api():
    generator = load_generator()
    assert generator.make_types() == GENERATED.read_text(), "run: python scripts/generate_types.py"


def test_what_a_user_asks_for_is_kept_by_the_same_name():
    apart = {"name", "env", "description", "tags"}  # which have columns of their own
    assert {*REQUESTED} == {*JobRequest.model_fields} - apart


def test_a_field_is_spelled_in_few_files():
    files = find_files("shm_size")
    assert "kbatch_server/models/request.py" in files
    assert len(files) <= MAX_FILES, sorted(files)


@pytest.mark.slow
def test_a_field_that_is_added_to_the_models_is_stored_shown_asked_for_again_described_and_typed(tmp_path):
    package = tmp_path / "kbatch_server"
    shutil.copytree(ROOT / "kbatch_server", package, ignore=shutil.ignore_patterns("static", "__pycache__"))
    module = package / "models/request.py"
    source = module.read_text()
    for line, added in ADDED.items():
        assert source.count(line) == 1
        source = source.replace(line, added + line)
    module.write_text(source)
    done = subprocess.run(
        [sys.executable, "-c", USE_IT],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    shown, again, described = json.loads(done.stdout)
    assert (shown, again) == (7, 7)
    schemas = described["components"]["schemas"]
    assert schemas["Job"]["properties"]["niceness"]["anyOf"] == [{"type": "integer"}, {"type": "null"}]
    assert schemas["JobRequest"]["properties"]["niceness"]["anyOf"][0]["maximum"] == 19
    types = load_generator().compile_types(json.dumps(described))
    assert "  niceness: number | null;" in types
    assert "  niceness?: number | null;" in types
    assert '"niceness"' in types.partition("REQUEST_FIELDS")[2]
