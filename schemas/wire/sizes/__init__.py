"""How large a message may be: checked before its bytes are unpacked, and reckoned before it is made. No message enters,
so that every message may be held against it.
"""
