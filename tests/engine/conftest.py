"""What the tests of the engine share."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from traitlets.config import Config

from kbatch_server.engine.collector import Collector
from kbatch_server.engine.launch import LaunchBuilder
from kbatch_server.engine.links import SignedLinks
from kbatch_server.engine.reconciler import Reconciler
from kbatch_server.engine.workqueue import WorkQueue
from kbatch_server.jobs.profiles import Profiles
from kbatch_server.jobs.service import Jobs
from kbatch_server.keyring import Keyring
from kbatch_server.logs.reader import LogReader
from kbatch_server.logs.recorder import LogRecorder
from kbatch_server.outputs.outputs import Outputs
from kbatch_server.store import Store
from tests.support.doubles import MemoryStorage
from tests.support.launcher_doubles import ScriptedLauncher


@pytest.fixture
async def world(db_url):
    """The parts between the handlers and the launcher, real but for the launcher."""
    keyring = Keyring(["k" * 32])
    store = Store(db_url, keyring, log=logging.getLogger("test"), auto_upgrade=True)
    await store.open()
    launcher = ScriptedLauncher()
    profiles = Profiles(config=Config(JobConfig={"environment": {"SITE": "here", "A": "admin's"}}))
    storage = MemoryStorage()
    links = SignedLinks(keyring=keyring, store=store)
    builder = LaunchBuilder(links=links, profiles=profiles, storage=storage, store=store)
    outputs = Outputs(storage=storage, records=store.outputs, max_output_bytes=1000)
    queue = WorkQueue()
    recorder = LogRecorder(launcher=launcher, storage=storage, logs=store.logs, on_complete=queue.put)
    collector = Collector(launcher=launcher, outputs=outputs, recorder=recorder, jobs=store.jobs)
    reconciler = Reconciler(launcher=launcher, builder=builder, store=store, collector=collector, queue=queue)
    reader = LogReader(recorder=recorder, storage=storage, logs=store.logs)
    jobs = Jobs(
        launcher=launcher,
        profiles=profiles,
        reader=reader,
        store=store,
        on_submit=reconciler.accept,
        on_change=reconciler.queue.put,
    )
    yield SimpleNamespace(
        jobs=jobs,
        launcher=launcher,
        reconciler=reconciler,
        recorder=recorder,
        store=store,
        storage=storage,
        builder=builder,
        links=links,
        outputs=outputs,
        collector=collector,
    )
    await recorder.stop()
    await store.close()
