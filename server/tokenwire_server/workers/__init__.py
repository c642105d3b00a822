"""Several processes that share one address: the supervisor, and what it shares with its workers.

Imported only if there is more than one worker. The supervisor does not import gRPC.
"""
