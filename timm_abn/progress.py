"""How far long work has come: a bar in a terminal, elsewhere a line a minute."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from huggingface_hub.utils import are_progress_bars_disabled, tqdm

__all__ = ['Progress', 'every_minute']

MINUTE = 60.0
T = TypeVar('T')
T_co = TypeVar('T_co', covariant=True)


class _Items(Protocol[T_co]):
    def __iter__(self) -> Iterator[T_co]: ...

    def __len__(self) -> int: ...


class Progress(Generic[T]):
    """Items of long work, one after another, which says on standard error how many are done.

    Args:
        items: What is worked on, such as batches.
        what: What the work is called.
        unit: What an item is.
        shown: Without it nothing is said, as by all processes but the first.

    Attributes:
        note: What else to say, such as a loss; may be set at any time.
    """

    def __init__(self, items: _Items[T], what: str, unit: str, shown: bool = True) -> None:
        self.items, self.what, self.unit = items, what, unit
        self.shown = shown and not are_progress_bars_disabled()
        self.done, self.note = 0, ''

    def __iter__(self) -> Iterator[T]:
        """Yield the items; how many of them were asked for and worked on is how many are done."""
        started, items = time.monotonic(), iter(self.items)

        def say() -> None:
            done, minutes = f'{self.done} of {len(self.items)}', (time.monotonic() - started) / 60
            note = f', {self.note}' if self.note else ''
            print(f'{self.what}: {done} {self.unit}, {minutes:.0f} min{note}', file=sys.stderr, flush=True)

        if self.shown and sys.stderr.isatty():
            with tqdm(items, self.what, len(self.items), unit=self.unit) as bar:
                for item in bar:
                    yield item
                    bar.set_postfix_str(self.note)
            return
        with every_minute(say) if self.shown else contextlib.nullcontext():
            for item in items:
                yield item
                self.done += 1


@contextlib.contextmanager
def every_minute(say: Callable[[], None]) -> Iterator[None]:
    """Call ``say`` each minute while the block runs."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(MINUTE):
            say()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
