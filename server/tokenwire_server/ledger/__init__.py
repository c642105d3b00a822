"""Usage records: what each stream used and what it cost."""
