"""Bounded queues between threads that all end together, cleanly, at the first failure."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Cancelled(Exception):
    """The crew is stopping: unwind without a word."""


class Crew:
    """Threads with one fate: the first exception stops all, and :meth:`join` raises it once.

    ``stop`` is what a consumer in the caller's thread uses when it fails or is interrupted itself.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.stopping = False
        self.failure: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run ``work`` in a thread of this crew."""
        thread = threading.Thread(target=self._guard, args=(work,), name=f"rubicc-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Cancelled:
            pass
        except BaseException as err:
            self.stop(err)

    def stop(self, failure: BaseException | None = None) -> None:
        """Wake everyone up and make every channel raise :class:`Cancelled`."""
        with self.changed:
            self.stopping = True
            if self.failure is None:
                self.failure = failure
            self.changed.notify_all()

    def join(self) -> None:
        """Wait for all threads; raise what the first of them that failed raised."""
        for thread in self._threads:
            thread.join()
        if self.failure is not None:
            raise self.failure


class Channel(Generic[T]):
    """A first-in first-out queue of at most ``capacity`` units of weight, ended by :meth:`close`."""

    def __init__(self, crew: Crew, capacity: int) -> None:
        self._crew = crew
        self._capacity = capacity
        self._held = 0
        self._items: deque[tuple[T, int]] = deque()
        self._closed = False

    def put(self, item: T, weight: int = 1) -> None:
        """Append ``item``; waits while the channel is full. An item heavier than the channel goes in alone.

        Raises:
            Cancelled: the crew is stopping.
        """
        with self._crew.changed:
            while self._held and self._held + weight > self._capacity and not self._crew.stopping:
                self._crew.changed.wait()
            if self._crew.stopping:
                raise Cancelled
            self._items.append((item, weight))
            self._held += weight
            self._crew.changed.notify_all()

    def close(self) -> None:
        """No more items will come."""
        with self._crew.changed:
            self._closed = True
            self._crew.changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Items until the channel is closed and empty.

        Raises:
            Cancelled: the crew is stopping.
        """
        while True:
            with self._crew.changed:
                while not self._items and not self._closed and not self._crew.stopping:
                    self._crew.changed.wait()
                if self._crew.stopping:
                    raise Cancelled
                if not self._items:
                    return
                item, weight = self._items.popleft()
                self._held -= weight
                self._crew.changed.notify_all()
            yield item


def in_turn(items: Iterable[T], number: Callable[[T], int]) -> Iterator[T]:
    """``items``, numbered 0, 1, 2, ... but arriving in another order, in order."""
    waiting: dict[int, T] = {}
    turn = 0
    for item in items:
        waiting[number(item)] = item
        while turn in waiting:
            yield waiting.pop(turn)
            turn += 1
