"""Records of trials, and the leaderboards computed from them."""
