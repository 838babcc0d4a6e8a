"""The dashboard: what the queues hold, and two buttons.

One route serves everything under ``DashboardConfig.path``, so that one list of guards is the only door::

    access      who may come in, and from which pages
    headers     what every response says to the browser
    places      addresses: job keys with slashes, relative links under any proxy prefix
    redaction   values as text, without secrets, cut to a length

    actions     retry and abort
    answers     those values as JSON or as pages
    routes      which address shows what
"""

from __future__ import annotations

from litestar_tasks.dashboard.access import announce
from litestar_tasks.dashboard.routes import dashboard_handlers

__all__ = ("announce", "dashboard_handlers")
