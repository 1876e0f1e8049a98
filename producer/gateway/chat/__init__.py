"""Conversations as token ids and back: what a chat template makes of messages, and what a sampled reply says.

Pure: neither HTTP nor Redis, and never a token that was sampled is tokenized again.
"""

from .chat_format import ChatFormat
from .checked_messages import checked_messages
from .checked_tools import checked_tools
from .choices import forced_names
from .errors import ChatRequestError, ChatTemplateError, NotContinuedError, ReplyChangedError
from .growing import Delta, GrowingReply
from .json_values import mapping_at
from .matching import Candidate, answers, asked, candidates, is_very, reply_digest
from .opening import PROMPT_END
from .reply import Reply, ToolCall

__all__ = [
    "PROMPT_END",
    "Candidate",
    "ChatFormat",
    "ChatRequestError",
    "ChatTemplateError",
    "Delta",
    "GrowingReply",
    "NotContinuedError",
    "Reply",
    "ReplyChangedError",
    "ToolCall",
    "answers",
    "asked",
    "candidates",
    "checked_messages",
    "checked_tools",
    "forced_names",
    "is_very",
    "mapping_at",
    "reply_digest",
]
