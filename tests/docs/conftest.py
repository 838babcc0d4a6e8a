"""What the tests of the documents share."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.docs.shells import Server, Shell
from tests.docs.stories import Story


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Story]:
    """The Python blocks of a document; the same object for all of its blocks."""
    stories: dict[str, Story] = {}

    def find(document: str) -> Story:
        if document not in stories:
            stories[document] = Story(document, tmp_path_factory.mktemp("story"))
        return stories[document]

    return find


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The reference app and a worker, on the embedded server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = Server(tmp_path_factory.mktemp("dev"), port)
    yield server
    assert server.stop() == 0, server.log


@pytest.fixture(scope="session")
def shell(server: Server) -> Iterator[Callable[[str], Shell]]:
    """A document's shell, beside the running app."""
    shells: dict[str, Shell] = {}

    def find(document: str) -> Shell:
        if document not in shells:
            shells[document] = Shell(server.folder, server.env)
        return shells[document]

    yield find
    for one in shells.values():
        one.close()
