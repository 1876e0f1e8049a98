"""What the hashes in Redis hold field by field: the fields' names, and their values read without an error where anybody
may have written them. No message enters, no key, and no command that reads or writes them.
"""
