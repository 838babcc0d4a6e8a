from __future__ import annotations

from litestar import Controller, get
from litestar.params import FromPath

from app.jobs.schemas import JobView
from app.queue.registry import get_registry

__all__ = ("JobController",)


class JobController(Controller):
    """Anybody who knows a job's id may ask for it. Where results are private, add a guard."""

    path = "/jobs"
    tags = ("Jobs",)

    # A path, not a text: a key of one's own (`using(key=…)`), which is part of the id, may hold slashes.
    @get("/{job_id:path}", summary="Get a job")
    async def get_job(self, job_id: FromPath[str]) -> JobView:
        """Its status, and its result once it is complete. Why a job failed is for the dashboard and the log."""
        job = get_registry().job(job_id.removeprefix("/"))
        status = await job.status()
        return JobView(
            id=job.id,
            status=status,
            progress=await job.progress(),
            result=await job.result(timeout=0) if status == "complete" else None,
        )
