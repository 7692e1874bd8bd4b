"""Records of trials, a local index of them, and the leaderboards computed from them."""
