"""A hub with kbatch-server on this machine, to try it and to see it run."""
