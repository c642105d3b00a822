"""What streams used and what it costs: token counts, prices, and the durable record of each stream."""
