"""The command on conversations: which sessions there are, and the turns of one."""
