"""The collector in a worker process."""

from __future__ import annotations

import gc

from litestar_tasks.worker.garbage import collected_seldom


def test_the_collector_is_as_it_was_after_the_worker() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with collected_seldom():
        assert gc.get_threshold() > before
        assert gc.get_freeze_count() > frozen
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
