"""Training: many soft prompts at once on one frozen base."""
