"""The command line of `tokenwire-server`, and the commands that work on the database."""
