"""The dashboard: what the queues hold, how the tasks fare, and what can be done about it.

One route serves everything under ``DashboardConfig.path``, so that one list of guards is the only door::

    access, basic_auth      who may come in, from which pages, and who may act
    headers                 what every response says to the browser
    places, visit, routes   addresses: which one means what
    redaction, words        values, moments and numbers as text, without secrets
    watch, asking, stats    what queues are asked, and what comes of it
    overview, jobs, job, tasks, schedules, queues, workers
                            a module for each noun: its pages, and what can be done there
    search, turns, job_view, tracebacks, forms, charts, history
                            parts of those pages
    archive, recorded, recorded_search, recorded_view
                            jobs that the app's history holds, where it has one: asked for, shown, run again
    api, api_types, openapi the same as JSON
    answers, explained      pages from templates, files, redirects; errors with more to say than their status
"""

from __future__ import annotations

from litestar_tasks.dashboard.access import announce
from litestar_tasks.dashboard.answers import prepare
from litestar_tasks.dashboard.basic_auth import BasicAuth
from litestar_tasks.dashboard.openapi import describe
from litestar_tasks.dashboard.routes import dashboard_handlers

__all__ = ("BasicAuth", "announce", "dashboard_handlers", "describe", "prepare")
