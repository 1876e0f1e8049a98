"""What a client asks, read from JSON: every parameter is honoured or refused by its name. Pure: it awaits nothing, and
neither Redis nor HTTP enters.
"""
