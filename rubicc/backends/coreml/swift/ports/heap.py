"""Port of ``Heap.swift``."""

from __future__ import annotations


class Heap:
    """A binary heap of integers that gives the smallest first."""

    def __init__(self) -> None:
        self.items: list[int] = []

    def push(self, item: int) -> None:
        """Add ``item``."""
        self.items.append(item)
        child = len(self.items) - 1
        while child > 0:
            parent = (child - 1) // 2
            if self.items[parent] <= self.items[child]:
                break
            self.items[parent], self.items[child] = self.items[child], self.items[parent]
            child = parent

    def pop(self) -> int | None:
        """Take the smallest; ``None`` when empty."""
        if not self.items:
            return None
        top = self.items[0]
        last = self.items.pop()
        if not self.items:
            return top
        self.items[0] = last
        parent = 0
        while True:
            child = 2 * parent + 1
            if child >= len(self.items):
                break
            if child + 1 < len(self.items) and self.items[child + 1] < self.items[child]:
                child += 1
            if self.items[parent] <= self.items[child]:
                break
            self.items[parent], self.items[child] = self.items[child], self.items[parent]
            parent = child
        return top
