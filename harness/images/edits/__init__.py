"""New images made from old ones; the old one never changes."""
