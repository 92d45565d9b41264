"""What each command does: rule functions first, use-cases below; one module per noun."""
