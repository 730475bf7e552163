"""One step of a job at a time, where a test decides what happens between two."""

from __future__ import annotations

from kbatch_server.engine.reconciler import Reconciler


async def do_step(reconciler: Reconciler, job_id: str) -> None:
    """Look at a job, and launch it if its turn has come; raises what the step raises."""
    await reconciler.reconcile(job_id)
    await launch_ready(reconciler)


async def launch_ready(reconciler: Reconciler) -> None:
    """Launch the jobs whose turn has come; raises what a launch raises."""
    while reconciler.scheduler:
        await reconciler.launch(*await reconciler.scheduler.next())
