"""What several engines' packages share."""
