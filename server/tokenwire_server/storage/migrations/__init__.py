"""Migrations of the schema: one revision for each change, oldest first."""
