"""Keep the leaderboard, and choose the row that serves best."""
