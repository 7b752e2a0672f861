"""``keyvaultfs check``: walk the chain as the worker would, and say what is wrong and how to mend it."""
