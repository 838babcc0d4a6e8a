"""What the documents show of Python runs, and does what they say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.docs.documents import Block, blocks
from tests.docs.stories import Story


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_python_block_runs(block: Block, story: Callable[[str], Story]) -> None:
    story(block.document).tell(block)


def test_no_python_block_hides_behind_another_name() -> None:
    assert not blocks("py", "python3", "pycon", "pytb")
