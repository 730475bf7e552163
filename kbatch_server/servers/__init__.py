"""The servers of the hub's users: what the hub says of them, and which claim is a server's home."""
