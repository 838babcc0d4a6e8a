"""What users pay."""
