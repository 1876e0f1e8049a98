"""The server behind `rollstream gateway`: OpenAI's protocol in front of the queue, for agents that know nothing of it.

It only submits jobs and reads their answers; no model and no weights are ever loaded here.
"""
