"""Where a request goes: a model's name becomes a plan, and a plan's candidates are attempted."""
