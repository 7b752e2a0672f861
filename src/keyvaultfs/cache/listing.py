"""The vault's listing, read once for all who want it, and handed out page by page while it is still being read."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import trio

from keyvaultfs.errors import KeyVaultFSError, Unavailable, bare

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from keyvaultfs.model import ListItem


class Listing:
    """One reading of the listing.

    Attributes:
        began: when it was asked for, in seconds of trio's clock.
        items: what has come so far, without duplicates.
        complete: whether that is all.
        failure: why it will never be complete.
        worth: how many pages it may have; it is given up beyond them, since single gets are cheaper.
        quiet: whether a refusal is not logged, since nothing depends on this listing.
        proof: since when a name that it lacks counts as absent: when the last reading began that somebody asked for.
        shown: what of a whole one is shown, once somebody has asked.
    """

    def __init__(self, began: float, worth: float) -> None:
        self.began = began
        self.worth = worth
        self.given_up = False
        self.quiet = True
        self.proof = -math.inf
        self.items: list[ListItem] = []
        self.positions: dict[str, int] = {}
        self.shown: tuple[ListItem, ...] | None = None
        self.complete = False
        self.failure: Exception | None = None
        self._more = trio.Event()

    async def read(
        self,
        pages: AsyncGenerator[tuple[ListItem, ...], None],
        page_seconds: float,
        on_page: Callable[[tuple[ListItem, ...], float], None],
    ) -> None:
        """Read it to its end; each page has `page_seconds`, and is shown to `on_page` with the time of its request.

        Failures become `failure`.
        """
        try:
            while not self.given_up:
                sent = trio.current_time()
                with trio.fail_after(page_seconds):
                    page = await anext(pages, None)
                if page is None:
                    self.complete = True
                    break
                first = len(self.items)
                for item in page:
                    if item.name.key not in self.positions:
                        self.positions[item.name.key] = len(self.items)
                        self.items.append(item)
                on_page(tuple(self.items[first:]), sent)
                self._stir()
                self.worth -= 1
                self.given_up = self.worth <= 0
        except (KeyVaultFSError, trio.TooSlowError) as exc:
            self.failure = bare(exc)
        finally:
            if not self.complete and self.failure is None:
                self.failure = Unavailable("Interrupted")
            self._stir()
            with trio.CancelScope(shield=True):
                await pages.aclose()

    async def stream(self) -> AsyncGenerator[tuple[ListItem, ...], None]:
        """What there is, and what comes.

        Raises:
            KeyVaultFSError, trio.TooSlowError: it broke off; partial listings prove no absence.
        """
        given = 0
        while True:
            more = self._more
            if given < len(self.items):
                page = tuple(self.items[given:])
                given += len(page)
                yield page
            elif self.complete:
                return
            elif self.failure is not None:
                raise copy.copy(self.failure) from None
            else:
                await more.wait()

    def _stir(self) -> None:
        more, self._more = self._more, trio.Event()
        more.set()
