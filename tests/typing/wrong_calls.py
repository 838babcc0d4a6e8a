"""Calls that type checkers refuse: every line marked so, in mypy --strict and in pyright strict."""
# pyright: strict

from __future__ import annotations

from datetime import timedelta

from litestar_tasks import Snooze, Throttle, Unique
from tests.typing.right_calls import (
    Account,
    bare,
    called,
    injected,
    injected_with_context,
    log_in,
    own_context,
    registry,
    scheduled,
    sync_bare,
    sync_called,
    sync_injected,
    sync_without_context,
    task,
    untyped_data,
    without_context,
)


async def wrong() -> None:
    await bare.enqueue()  # wrong: an argument is missing
    await bare.enqueue(user_id="1")  # wrong: a text for a number
    await bare.enqueue(user_id=1, x=2)  # wrong: an argument too many
    await bare.enqueue({}, user_id=1)  # wrong: the context is the worker's to give
    await bare(user_id=1)  # wrong: called directly, it needs a context
    await called.using(delya=3).enqueue(1)  # wrong: no such option
    await called.using(session=3).enqueue(1)  # wrong: no session
    await called.using(delay=timedelta(1)).enqueue("1")  # wrong: a text for a number
    called.bind("1")  # wrong: a text for a number
    await sync_without_context(1)  # wrong: a sync task returns its value
    await sync_bare.enqueue(n=1)  # wrong: by name what is positional only
    await sync_called.enqueue()  # wrong: an argument is missing
    sync_called(n=1)  # wrong: called directly, it needs a context
    await sync_injected.enqueue("1")  # wrong: a text for a number
    injected_with_context.bind("1")  # wrong: a text for a number
    await without_context.enqueue("1")  # wrong: a text for a number
    await injected.enqueue(payment_id="x")  # wrong: a text for a UUID
    await injected.enqueue()  # wrong: an argument is missing
    await own_context.enqueue(x="1")  # wrong: a text for a number
    await scheduled.enqueue(batch_size="1")  # wrong: a text for a number
    await called.enqueue(1, delay=3)  # wrong: an option among the arguments
    await untyped_data.enqueue(data=3)  # wrong: a number for a dict
    result: int = await (await bare.enqueue(user_id=1)).result()  # wrong: another result
    task(timout=3)  # wrong: no such option
    task(middleware=[without_context])  # wrong: no middleware
    task(dependencies={"client": 7})  # wrong: no provider
    registry.scheduled_task(cron=3)  # wrong: an expression is a text
    registry.scheduled_task(every=60)  # wrong: an interval is a timedelta
    registry.schedule(scheduled, cron="@daily", misfire="never")  # wrong: no such policy
    await registry.add_schedule("mine", task=scheduled, every=timedelta(hours=1), retries=3)  # wrong: no such option
    task(backoff=60)  # wrong: a pause alone is no policy
    task(backoff="exponential")  # wrong: a text is no policy
    task(retry_on="OSError")  # wrong: a name is no exception
    task(retry_on=[OSError])  # wrong: a list is no tuple
    task(discard_on=KeyboardInterrupt)  # wrong: what ends the process is no outcome
    await called.using(backoff=60).enqueue(1)  # wrong: a pause alone is no policy
    await called.using(on_success=7).enqueue(1)  # wrong: no call
    await called.using(on_failure=[bare]).enqueue(1)  # wrong: a task that is not bound
    task(executor="fork")  # wrong: no such executor
    await called.using(expires="1h").enqueue(1)  # wrong: a text for a duration
    await log_in.enqueue(password=7, account=Account("ada", "x"))  # wrong: a number for a secret text
    Account("ada", 7)  # wrong: a number for a secret text
    secret: int = await log_in(password="x", account=Account("ada", "x"))  # wrong: a text for a number
    task(unique="user_id")  # wrong: which arguments is said by Unique(by=…)
    task(unique=Unique(until="ended"))  # wrong: no such moment
    task(exclusive=Unique())  # wrong: another option's class
    await called.using(debounce="1h").enqueue(1)  # wrong: a text for a duration
    Throttle()  # wrong: without a period
    Snooze("why", delay="1h")  # wrong: a text for a duration
    wanted: str | None = (await (await without_context.enqueue(1)).outcome()).result  # wrong: another result
    print(result, wanted, secret)
