"""What can be declared, and what is refused where it is declared."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import pickle
import sys
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest
from saq.types import Context
from sqlalchemy.ext.asyncio import AsyncSession

from litestar_tasks import (
    ConfigurationError,
    DuplicateTaskError,
    InvalidScheduleError,
    InvalidTaskError,
    Registry,
    Task,
    UnknownTaskError,
)


@pytest.fixture
def registry() -> Registry:
    return Registry("test", allow_local=True)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes modules of a throw-away package ``shop`` and imports them."""
    root = tmp_path / "shop"
    root.mkdir()
    (root / "__init__.py").touch()
    (root / "registry.py").write_text("from litestar_tasks import Registry\nregistry = Registry('shop')\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(path: str, text: str) -> Path:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        for parent in target.relative_to(root).parents:
            (root / parent / "__init__.py").touch()
        target.write_text(dedent(text))
        importlib.invalidate_caches()
        return target

    yield write
    for name in [name for name in sys.modules if name == "shop" or name.startswith("shop.")]:
        del sys.modules[name]


class TestDeclaring:
    def test_a_bare_and_a_called_decorator_register_under_the_functions_name(self, registry: Registry) -> None:
        @registry.task
        async def bare(ctx: Context, *, user_id: int) -> None: ...

        @registry.task(queue="emails", timeout=timedelta(seconds=30))
        async def called() -> None: ...

        assert [task.__name__ for task in registry.get_all_tasks()] == ["bare", "called"]
        assert registry.get_task("called") is called
        assert called.options == {"queue": "emails", "timeout": 30.0}

    def test_a_task_keeps_what_the_function_says_of_itself(self, registry: Registry) -> None:
        @registry.task(name="mail.send")
        async def send(ctx: Context, *, to: str) -> None:
            """Send one mail."""

        assert send.__doc__ == "Send one mail."
        assert send.__name__ == send.__qualname__ == send.name == "mail.send"
        assert list(send.__annotations__) == ["to", "return", "ctx"] or "to" in send.__annotations__

    async def test_calling_a_task_runs_its_function_here_and_now(self, registry: Registry) -> None:
        @registry.task
        async def with_context(ctx: Context, *, n: int) -> int:
            return n + len(ctx)

        @registry.task
        def plain(n: int) -> int:
            return n * 2

        assert await with_context({"queue": object()}, n=1) == 2
        assert plain(4) == 8

    def test_functions_under_wraps_are_tasks_with_the_inner_signature(self, registry: Registry) -> None:
        def twice(fn: Any) -> Any:
            @functools.wraps(fn)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                return 2 * await fn(*args, **kwargs)

            return wrapper

        @registry.task
        @twice
        async def wrapped(*, n: int) -> int:
            return n

        assert wrapped.name == "wrapped"
        assert wrapped.payload.encode((), {"n": 1}) == {"n": 1}

    def test_registries_do_not_know_of_each_other(self) -> None:
        one, other = Registry("one", allow_local=True), Registry("other", allow_local=True)

        @one.task
        async def job() -> None: ...

        assert other.get_all_tasks() == []
        other.task(job.fn)
        assert other.get_task("job") is not job

    def test_a_name_that_is_not_there_is_answered_with_the_nearest(self, registry: Registry) -> None:
        @registry.task
        async def send_receipt() -> None: ...

        with pytest.raises(UnknownTaskError, match="did you mean 'send_receipt'"):
            registry.get_task("send_reciept")

    def test_options_come_from_the_call_then_the_task_then_the_registry_then_the_defaults(self) -> None:
        registry = Registry("levels", allow_local=True, timeout=60, queue="slow")

        @registry.task(timeout=30)
        async def job() -> None: ...

        assert job.spec((), {}, {"timeout": 5.0}).timeout == 5
        assert job.spec((), {}).timeout == 30
        assert job.option("queue") == "slow"
        assert job.spec((), {}).max_attempts == 1


class TestRefusing:
    def test_two_functions_of_one_name_are_refused_with_both_places(self, registry: Registry) -> None:
        @registry.task
        async def cleanup() -> None: ...

        async def other() -> None: ...

        with pytest.raises(DuplicateTaskError, match=r"test_registry.py:\d+, .*test_registry.py:\d+.*explicit name"):
            registry.task(name="cleanup")(other)
        assert registry.get_task("cleanup") is cleanup

    @pytest.mark.parametrize(
        ("candidate", "says"),
        [
            (functools.partial(print), "partial"),
            (lambda: None, "lambda"),
            (Path("x").exists, "bound to an object"),
            (type("Callable", (), {"__call__": lambda self: None})(), "not a function"),
            (staticmethod(len), "put @task below @staticmethod"),
            (print, "not a function"),
        ],
    )
    def test_what_has_no_name_of_its_own_is_refused(self, registry: Registry, candidate: Any, says: str) -> None:
        with pytest.raises(InvalidTaskError, match=says):
            registry.task(candidate)
        assert registry.get_all_tasks() == []

    def test_local_functions_are_refused_unless_the_registry_allows_them(self) -> None:
        async def local() -> None: ...

        with pytest.raises(InvalidTaskError, match="move it to module level"):
            Registry().task(local)

    def test_a_task_of_a_task_is_refused_with_the_way_to_a_second_schedule(self, registry: Registry) -> None:
        @registry.task
        async def job() -> None: ...

        with pytest.raises(InvalidTaskError, match=r"registry.schedule\(task, cron=…\)"):
            registry.task(job)  # type: ignore[call-overload]  # the mistake under test

    def test_generators_and_variable_arguments_are_refused(self, registry: Registry) -> None:
        async def generator():
            yield 1

        async def variable(*args: int) -> None: ...

        with pytest.raises(InvalidTaskError, match="generator"):
            registry.task(generator)
        with pytest.raises(InvalidTaskError, match="takes any arguments"):
            registry.task(variable)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"timout": 3}, "unknown option 'timout'"),
            ({"max_retries": 3}, "max_attempts counts runs"),
            ({"timeout": -1}, "not negative"),
            ({"timeout": 0}, "more than 0 seconds"),
            ({"timeout": "30s"}, "give seconds or a timedelta"),
            ({"max_attempts": 0}, "from 1 to"),
            ({"tag": ""}, "1 to 100 characters"),
            ({"tag": "x" * 101}, "1 to 100 characters"),
            ({"tag": 7}, "1 to 100 characters"),
            ({"max_attempts": True}, "whole number"),
            ({"priority": 101}, "from -100 to 100"),
            ({"queue": ""}, "not empty"),
        ],
    )
    def test_options_that_cannot_work_are_refused_at_the_decorator(
        self, registry: Registry, options: dict[str, Any], says: str
    ) -> None:
        async def job() -> None: ...

        with pytest.raises(ConfigurationError, match=says):
            registry.task(**options)(job)
        assert registry.get_all_tasks() == []

    def test_a_result_that_cannot_be_stored_is_refused_at_the_decorator(self, registry: Registry) -> None:
        async def job() -> AsyncSession: ...  # type: ignore[empty-body]  # the annotation is all that counts

        with pytest.raises(InvalidTaskError, match="its result cannot be stored: an object of the class AsyncSession"):
            registry.task(job)

    def test_a_method_is_refused_at_the_decorator(self, registry: Registry) -> None:
        class Mailer:
            async def send(self, *, to: str) -> None: ...

            async def count(*, to: str) -> None:  # type: ignore[misc]  # no method: it takes no object
                ...

        with pytest.raises(InvalidTaskError, match=r"Mailer.send' \(.*\) is a method, and its object cannot be stored"):
            registry.task(Mailer.send)
        assert registry.task(Mailer.count) in registry.get_all_tasks()

    def test_a_union_that_json_cannot_tell_apart_is_refused_at_the_decorator(self, registry: Registry) -> None:
        from uuid import UUID

        async def job(x: UUID | str) -> None: ...

        job.__annotations__["x"] = UUID | str
        with pytest.raises(InvalidTaskError, match="parameter 'x' cannot be stored"):
            registry.task(job)


class TestSchedules:
    @pytest.mark.parametrize("unnamed", ["0 2 * * *", print], ids=["a rhythm", "the function"])
    def test_a_rhythm_without_its_name_is_refused(self, registry: Registry, unnamed: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"given by name: @scheduled_task\(cron="):
            registry.scheduled_task(unnamed)
        assert registry.get_schedules() == []

    def test_a_scheduled_task_is_a_task_with_a_schedule(self, registry: Registry) -> None:
        @registry.scheduled_task(cron="0 2 * * *", timeout=900, kwargs={"batch_size": 100})
        async def cleanup_old_records(ctx: Context, *, batch_size: int = 50) -> None: ...

        (schedule,) = registry.get_schedules()
        assert (schedule.id, schedule.cron, schedule.kwargs) == (
            "cleanup_old_records",
            "0 2 * * *",
            {"batch_size": 100},
        )
        assert isinstance(cleanup_old_records, Task)
        assert cleanup_old_records.payload.encode((), {"batch_size": 7}) == {"batch_size": 7}

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"cron": "every day"}, "cannot work"),
            ({"cron": "61 * * * *"}, "cannot work"),
            ({"cron": "0 0 31 2 *"}, "cannot work"),
            ({"cron": "* * * * *", "timezone": "Europe/Atlantis"}, "unknown time zone"),
            ({"cron": "* * * * *", "kwargs": {"size": 1}}, "unknown argument"),
            ({"cron": "* * * * *", "kwargs": {"batch_size": "1"}}, "expected int, got str"),
            ({"cron": "* * * * *", "every": timedelta(hours=1)}, "either cron or every"),
            ({}, "either cron or every"),
            ({"every": timedelta(0)}, "at least one second"),
        ],
    )
    def test_a_schedule_that_cannot_work_is_refused_at_the_decorator(
        self, registry: Registry, settings: dict[str, Any], says: str
    ) -> None:
        async def cleanup(*, batch_size: int = 50) -> None: ...

        with pytest.raises(InvalidScheduleError, match=says):
            registry.scheduled_task(**settings)(cleanup)
        assert registry.get_all_tasks() == []
        assert registry.get_schedules() == []

    def test_a_second_schedule_needs_an_id_of_its_own(self, registry: Registry) -> None:
        @registry.scheduled_task(cron="0 2 * * *")
        async def report(*, region: str = "eu") -> None: ...

        with pytest.raises(InvalidScheduleError, match="give this one another id"):
            registry.schedule(report, cron="0 3 * * *")
        registry.schedule(report, id="report-us", cron="0 3 * * *", kwargs={"region": "us"})
        assert [schedule.id for schedule in registry.get_schedules()] == ["report", "report-us"]

    def test_a_task_of_another_registry_is_not_scheduled_here(self, registry: Registry) -> None:
        other = Registry("other", allow_local=True)

        @other.task
        async def job() -> None: ...

        with pytest.raises(InvalidScheduleError, match="does not belong to registry 'test'"):
            registry.schedule(job, cron="* * * * *")


class TestModules:
    TASKS = """
        from shop.registry import registry

        @registry.task
        async def greet(*, name: str) -> str:
            return name

        renamed = registry.task(name="mail.send")(greet.fn)
    """

    def test_discover_imports_every_tasks_module_and_no_other(self, package: Any) -> None:
        package("users/tasks.py", self.TASKS)
        package("users/routes.py", "raise RuntimeError('imported')")
        package("deep/er/tasks.py", self.TASKS.replace("greet", "wave").replace("mail.send", "x"))
        registry: Registry = importlib.import_module("shop.registry").registry
        found = registry.discover("shop")
        assert sorted(task.name for task in found) == ["greet", "mail.send", "wave", "x"]

    def test_reloading_a_module_replaces_its_tasks(self, package: Any) -> None:
        path = package("users/tasks.py", self.TASKS)
        module = importlib.import_module("shop.users.tasks")
        old = module.greet
        path.write_text(dedent(self.TASKS.replace("return name", "return name * 2  # edited")))
        importlib.reload(module)
        registry: Registry = importlib.import_module("shop.registry").registry
        assert registry.get_task("greet") is module.greet is not old

    def test_one_source_file_under_two_module_names_is_no_duplicate(self, package: Any) -> None:
        path = package("users/tasks.py", self.TASKS)
        importlib.import_module("shop.users.tasks")
        spec = importlib.util.spec_from_file_location("__main__copy", path)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

    def test_tasks_pickle_by_reference_renamed_ones_too(self, package: Any) -> None:
        package("users/tasks.py", self.TASKS)
        module = importlib.import_module("shop.users.tasks")
        assert pickle.loads(pickle.dumps(module.greet)) is module.greet
        assert pickle.loads(pickle.dumps(module.renamed)) is module.renamed

    def test_a_spawned_process_gets_its_own_registrys_task(self, package: Any) -> None:
        package("users/tasks.py", self.TASKS)
        module = importlib.import_module("shop.users.tasks")
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            assert pool.apply(_describe, (module.greet,)) == ("greet", "shop.users.tasks")

    def test_a_pickled_task_that_is_gone_says_so(self, package: Any) -> None:
        package("users/tasks.py", self.TASKS)
        module = importlib.import_module("shop.users.tasks")
        pickled = pickle.dumps(module.renamed)
        registry: Registry = importlib.import_module("shop.registry").registry
        del module.renamed, registry._tasks["mail.send"]
        with pytest.raises(LookupError, match="bind it to a name at module level"):
            pickle.loads(pickled)

    def test_names_under_type_checking_are_resolved_when_the_app_starts(self, package: Any) -> None:
        package(
            "users/tasks.py",
            """
            from __future__ import annotations
            from typing import TYPE_CHECKING
            from shop.registry import registry
            if TYPE_CHECKING:
                from decimal import Decimal

            @registry.scheduled_task(cron="* * * * *", kwargs={"amount": "no number"})
            async def pay(*, amount: Decimal) -> Decimal:
                return amount
            """,
        )
        from decimal import Decimal

        from litestar_tasks.codec import Hooks

        module: ModuleType = importlib.import_module("shop.users.tasks")
        registry: Registry = importlib.import_module("shop.registry").registry
        problems = list(registry.check({}, Hooks({}, ())))
        assert "import it outside of TYPE_CHECKING" in str(problems[0])
        (problem,) = registry.check({"Decimal": Decimal}, Hooks({}, ()))
        assert "its kwargs do not fit" in str(problem)
        assert module.pay.payload.encode((), {"amount": Decimal("1.50")}) == {"amount": "1.50"}


class TestQueueConfigs:
    def test_there_is_one_for_every_queue_that_is_named(self, registry: Registry) -> None:
        @registry.task(queue="emails")
        async def send() -> None: ...

        configs = {config.name: config for config in registry.queue_configs(reports={"concurrency": 2})}
        assert list(configs) == ["default", "emails", "reports"]
        assert (configs["emails"].concurrency, configs["reports"].concurrency) == (10, 2)
        assert [task.__name__ for task in configs["reports"].tasks] == ["send"]

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"emails": {"concurency": 3}}, "unknown setting 'concurency'"),
            ({"emails": {"concurrency": 0}}, "at least 1"),
            ({"e:mails": {}}, "would break the broker's keys"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, registry: Registry, options: Any, says: str) -> None:
        with pytest.raises(ConfigurationError, match=says):
            registry.queue_configs(**options)


def _describe(task: Any) -> tuple[str, str]:
    return task.name, task.fn.__module__
