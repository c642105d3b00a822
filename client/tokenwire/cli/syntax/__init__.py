"""The commands of `tokenwire` and their options. Each function reads options and calls one function of
`commands`. It imports that function only when it runs, so that `--help` does not load gRPC.
"""
