"""What terminals show, as pure functions that give lines of text: each line fits the width that they are told."""
