"""What an operator does beside serving: keys, and the database's schema."""
