"""What each of our HTTP servers needs: where it listens, its signals and its end, bounds on connections and bodies, a
token. It knows no path, no page and nothing of what is answered.
"""
