"""The one exception whose message is meant for the person at the keyboard."""


class GatehouseError(Exception):
    """A problem the user can mend. The message is one sentence: what is wrong, where, and how to mend it."""
