"""What became of a paper's claims: verdicts, gap reports, and the leaderboard over all papers."""
