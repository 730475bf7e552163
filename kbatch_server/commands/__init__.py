"""What an admin runs by hand: ``kbatch-server gc`` and others."""
