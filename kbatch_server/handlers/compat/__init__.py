"""The wires of other clients, translated to ours and back: pure, no I/O."""
