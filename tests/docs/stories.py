"""Runs the Python blocks of a document: in order, in one namespace, as one reader would who types them in.

A block that awaits something runs within an app like the reference app, on `memory://` with a worker, that knows the
document's tasks. Functions named `test_…` are called. A ``text`` block right behind shows what the block prints, or the
error that it ends with.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import sys
from collections.abc import Callable, Generator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
from advanced_alchemy.extensions.litestar import SQLAlchemyPlugin
from litestar import Litestar

from app import manage
from app.db import database_config
from app.dependencies import dependencies
from app.settings import Settings
from litestar_tasks import OutboxConfig, Registry, TasksConfig, TasksPlugin
from tests.docs.documents import ROOT, Block, blocks

AWAITS: Final = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
REGISTRY: Final = "app.queue.registry"


class Story:
    """The Python blocks of one document."""

    def __init__(self, document: str, folder: Path) -> None:
        self.blocks = blocks("python", documents=(document,))
        self._module = ModuleType(f"docs_{Path(document).stem.lower()}")
        self.namespace = vars(self._module)
        self._told = 0
        self._settings = Settings(
            tasks_broker_url="memory://",
            database_url=f"sqlite+aiosqlite:///{folder / 'app.sqlite3'}",
            mailbox=folder / "mailbox",
        )
        manage.migrate(self._settings)
        manage.seed(self._settings)
        self._registry = fresh_registry_module()

    def tell(self, block: Block) -> None:
        """Run the blocks up to this one that have not been run yet."""
        wanted = self.blocks.index(block)
        while self._told <= wanted:
            current = self.blocks[self._told]
            self._told += 1
            with importable(self._registry), importable(self._module):
                self._evaluate(current)

    def _evaluate(self, block: Block) -> None:
        printed = io.StringIO()
        error: Exception | None = None
        with contextlib.redirect_stdout(printed):
            try:
                self._run(block)
            except Exception as raised:
                if block.answer is None or block.answer.language != "text":
                    raise
                error = raised
        if block.answer is None or block.answer.language != "text":
            return
        said = printed.getvalue() + (f"{type(error).__name__}: {error}" if error else "")
        if not block.answer.matches(said):
            raise AssertionError(f"{block} says\n{block.answer.text}\nbut what comes is\n{said}") from error

    def _run(self, block: Block) -> None:
        before = dict(self.namespace)
        # The same lines as in the document, for tracebacks and for what tasks say of their source.
        source = "\n" * block.line + block.source
        code = compile(source, str(ROOT / block.document), "exec", flags=AWAITS, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(self._run_in_app(eval(code, self.namespace)))
        else:
            exec(code, self.namespace)
        for name, value in self.namespace.items():
            if name.startswith("test_") and before.get(name) is not value:
                call_test(value)

    async def _run_in_app(self, work: Any) -> None:
        raised: Exception | None = None
        async with self._app().lifespan():
            try:
                await work
            except Exception as error:
                raised = error  # Through the lifespan it would come out in a group.
        if raised is not None:
            raise raised

    def _app(self) -> Litestar:
        own = self.namespace.get("registry")
        registry: Registry = own if isinstance(own, Registry) else self._registry.get_registry()
        config = TasksConfig(
            registry=registry, broker_url="memory://", in_process_worker=True, dashboard=None, outbox=OutboxConfig()
        )
        return Litestar(
            plugins=[SQLAlchemyPlugin(database_config(self._settings)), TasksPlugin(config)],
            dependencies={**dependencies(self._settings), **self.namespace.get("dependencies", {})},
            logging_config=None,
        )


def call_test(function: Callable[[], Any]) -> None:
    if inspect.iscoroutinefunction(function):
        asyncio.run(function())
    else:
        function()


def fresh_registry_module() -> ModuleType:
    """`app.queue.registry` without tasks, so that a document's tasks stay out of the reference app's registry."""
    # First, so that the reference app's own tasks are where they belong.
    from app.queue import config, registry

    assert config.registry is registry.registry
    assert registry.__file__ is not None
    spec = spec_from_file_location(REGISTRY, registry.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def importable(module: ModuleType) -> Generator[None]:
    """Let imports, and whoever resolves annotations, find this module under its name."""
    name = module.__name__
    package, _, last = name.rpartition(".")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)
        if package:
            patch.setattr(sys.modules[package], last, module)
        yield
