"""What a client is answered, in OpenAI's shapes, made of results and parts. Pure: it awaits nothing, and neither Redis
nor HTTP enters.
"""
