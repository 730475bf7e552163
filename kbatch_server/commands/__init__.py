"""Commands that an admin runs by hand, like ``kbatch-server gc``."""
