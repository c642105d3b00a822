"""Structured output that fills in: the values of a JSON answer, each as soon as it is complete."""
