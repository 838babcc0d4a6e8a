"""Tables in the metadata of an app's own models."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from advanced_alchemy.base import DefaultBase

from litestar_tasks.exceptions import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

__all__ = ("declared",)

_numbers: Final = itertools.count(1)
"""Classes of one registry need names of their own."""


def declared(metadata: MetaData, name: str, columns: type[Any], *, owner: str) -> Table:
    """A table, declared as a model of Advanced Alchemy's, if it is not yet.

    Args:
        metadata: That of the app's models.
        name: The table's name.
        columns: A class whose annotations are the columns.
        owner: Whose table it is: "outbox" or "history".

    Raises:
        ConfigurationError: The metadata has another table of that name.
    """
    if (known := metadata.tables.get(f"{metadata.schema}.{name}" if metadata.schema else name)) is not None:
        if not columns.__annotations__.keys() - {"__tablename__"} <= set(known.columns.keys()):
            raise ConfigurationError(
                f"the app has a table {name!r} of its own, so the {owner} cannot have that name; give it another one: "
                f"{owner.capitalize()}Config(table=…)"
            )
        return known
    names = {"__tablename__": name, "__module__": columns.__module__, "__doc__": columns.__doc__, "metadata": metadata}
    model: Any = type(f"{columns.__name__}{next(_numbers)}", (columns, DefaultBase), names)
    return model.__table__  # type: ignore[no-any-return]  # a declared model's
