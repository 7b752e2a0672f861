"""What a template may cost.

Nothing that runs in Python can be interrupted from outside, so a template pays as it goes: for each turn of a loop, for
each filter, and for what it makes.
"""

from __future__ import annotations

import jinja2

from keyvaultfs.errors import CannotMake

TURNS = 10_000  # of all loops together, and the longest range
STEP = 256  # what a filter or a turn costs besides what it makes
_ALL = 32 << 20  # characters that a rendering may make and look at, all steps together
_ITEM = 16  # what a list, a number and the like cost


class Purse:
    """What a rendering has left to spend.

    Args:
        toll: what a turn of a loop costs besides, since it may write the whole template.
    """

    def __init__(self, toll: int) -> None:
        self._left = _ALL
        self._turns = TURNS
        self._toll = toll + STEP

    def pay(self, cost: int) -> None:
        """Spend.

        Raises:
            CannotMake: there is not so much left.
        """
        self._left -= cost
        if self._left < 0:
            raise CannotMake("the template makes too much")

    def turn(self) -> None:
        """Pay for a turn of a loop; raises as `pay` does."""
        self._turns -= 1
        if self._turns < 0:
            raise CannotMake(f"the loops of the template have more than {TURNS} turns")
        self.pay(self._toll)

    def pay_for(self, value: object) -> None:
        """Pay for a value and all that is in it, however often; raises as `pay` does."""
        if isinstance(value, str):
            self.pay(len(value))
        elif isinstance(value, dict):
            for pair in value.items():
                self.pay_for(pair)
        elif isinstance(value, jinja2.Undefined):
            str(value)  # which is an error, also in the midst of a list
        elif isinstance(value, list | tuple):
            self.pay(_ITEM)
            for item in value:
                self.pay_for(item)
        else:
            self.pay(_ITEM * len(value) if isinstance(value, range) else _ITEM)
