"""Resolves models to plans, and runs attempts at their candidates."""
