"""Models by name: what is a hub name and what a path, and downloads that go on where they were broken off."""
