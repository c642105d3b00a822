"""The commands of `tokenwire` and their options. Each function reads options and calls one function of
`commands`, which it imports when it runs: `--help` needs no gRPC.
"""
