"""Objects as bytes for another process: by name what that process has, by value what it has not.

By value goes by cloudpickle, if that is installed (the extra ``poollock[cloudpickle]``), and only what
pickle cannot send, or would send by a name that the other process has not.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from abc import abstractmethod
from collections import ChainMap
from functools import cache
from importlib import import_module
from multiprocessing.reduction import ForkingPickler
from types import FunctionType
from typing import Any, Protocol, cast

from .main_module import MAIN, MainModule, is_found, is_of_main

# Types of what pickle alone sends, in half the time.
PLAIN = frozenset({int, float, bool, str, type(None)})

_reducers: dict[type, Any] = cast("Any", ForkingPickler)._extra_reducers


class AnyPickler(Protocol):
    """What pickles objects for another process: an ``ObjectPickler``."""

    @abstractmethod
    def dump(self, obj: Any, /) -> bytes:
        """Return *obj* as bytes."""


class ObjectPickler:
    """Pickles objects for another process.

    Args:
        main: What that process has of the main module.
    """

    def __init__(self, main: MainModule) -> None:
        self._main = main

        def reduce(obj: Any) -> Any:
            kind: type[Any] = type(obj)  # pyright: ignore[reportUnknownVariableType] # of Any it is that
            if kind is FunctionType or issubclass(kind, type):
                if obj.__module__ == MAIN and not main.has(obj) and by_value() is not None:
                    raise _NotByNameError
            # multiprocessing's own pickler looks for each object into a chain of tables.
            elif (reducer := _reducers.get(kind)) is not None:
                return reducer(obj)
            return NotImplemented

        class ByName(pickle.Pickler):
            __slots__ = ()
            # Called for each object that is not of a type like int, str, list or dict.
            reducer_override: Any = staticmethod(reduce)

        self._by_name = ByName

    def sends_by_name(self, func: FunctionType) -> bool:
        """Return whether *func* goes by its name, if that stands for it."""
        return func.__module__ != MAIN or self._main.has(func)

    def dump(self, obj: Any) -> bytes:
        """Return *obj* as bytes.

        Raises:
            Exception: What pickling raised.
        """
        buffer = io.BytesIO()
        try:
            self._by_name(buffer, pickle.DEFAULT_PROTOCOL).dump(obj)
            return buffer.getvalue()
        except RecursionError:
            raise
        except Exception:  # whatever it raised, by value it may go
            if by_value() is None:
                raise
        return self.dump_by_value(obj)

    def dump_for_start(self, obj: Any, descriptors: list[int]) -> bytes:
        """Return *obj* as bytes for a process that is being started.

        Args:
            obj: The object.
            descriptors: Those that the process is to inherit.  What processes share adds its own when it
                is pickled, and multiprocessing refuses to have one twice.

        Raises:
            Exception: What pickling raised.
        """
        count = len(descriptors)
        buffer = io.BytesIO()
        try:
            self._by_name(buffer, pickle.DEFAULT_PROTOCOL).dump(obj)
            return buffer.getvalue()
        except Exception:
            if by_value() is None:
                raise
        del descriptors[count:]
        return self.dump_by_value(obj)

    def dump_by_value(self, obj: Any) -> bytes:
        """Return *obj* as bytes; cloudpickle must be installed."""
        buffer = io.BytesIO()
        by_value()(buffer, self._main).dump(obj)
        return buffer.getvalue()


class _NotByNameError(Exception):
    """The other process has not what is about to be sent by its name."""


@cache
def by_value() -> Any:
    """Return a pickler that sends functions and classes by value; None if cloudpickle is not installed."""
    try:
        cloudpickle: Any = import_module("cloudpickle")
    except ImportError:
        return None
    base: Any = cloudpickle.Pickler
    reducers = dict(base.dispatch_table)
    # It would send a copy of what is in the file, rather than say that a file cannot be sent.
    reducers.pop(io.TextIOWrapper, None)

    class ByValue(base):  # type: ignore[misc] # cloudpickle has no types
        dispatch_table: Any = ChainMap(reducers, _reducers, copyreg.dispatch_table)  # noqa: RUF012 - never written to

        def __init__(self, buffer: io.BytesIO, main: MainModule) -> None:
            base.__init__(self, buffer)
            self._main = main

        def reducer_override(self, obj: Any) -> Any:
            if is_of_main(obj) and self._main.has(obj) and is_found(obj):
                return NotImplemented
            return base.reducer_override(self, obj)

    return ByValue
