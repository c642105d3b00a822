"""One module for each command of `tokenwire`: plain functions, independent of the parser."""
