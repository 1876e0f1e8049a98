"""What a release does in an environment that has nothing else: for each Python, from the wheel and from the sdist."""
