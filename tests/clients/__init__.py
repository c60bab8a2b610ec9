"""Published clients, each in an environment of its own, and what each of them does with a farm."""
