"""The state of a stream that is read, which both clients share. No I/O, no clock."""
