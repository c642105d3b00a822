"""The database: one door to it, its tables, and how its schema grows."""
