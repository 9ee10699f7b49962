"""Source = table? Reads both sides, compares them row by row, and says where they differ."""
