"""The database: its connections, its schema and its migrations."""
