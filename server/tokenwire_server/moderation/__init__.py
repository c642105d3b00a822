"""Services that check texts: OpenAI's moderations endpoint, and any HTTP service with a small contract."""
