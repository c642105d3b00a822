"""What callers can do with chats, without any transport."""
